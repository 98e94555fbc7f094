"""Reads data sets as they are released and kept: annotations, tables, lists and folders; cuts faces out; converts."""
