"""Bounds that a suite holds its results against."""
