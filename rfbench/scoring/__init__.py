"""Verdicts from token ids and texts."""
