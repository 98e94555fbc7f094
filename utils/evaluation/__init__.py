"""Scores and compares trained networks, looks data sets over, and writes the report."""
