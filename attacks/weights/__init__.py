"""Attacks on weights: what the modules under ``attacks/`` share. Importing this package imports nothing heavy."""
