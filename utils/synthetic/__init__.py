"""Synthetic faces: who is rendered and how, a pen, the parts of a face, pictures, and data sets on disk."""
