"""Suites: YAML files that say what is crossed with what, and what must hold."""
