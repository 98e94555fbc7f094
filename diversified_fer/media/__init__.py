"""Pictures and videos: opened, searched for faces, labelled, and written again."""
