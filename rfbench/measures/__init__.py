"""Measures: figures about a model rather than about a completion, beside dsr. Importing this imports nothing heavy.

A new measure is one module of this folder with one public subclass of :class:`~rfbench.measures.base.Measure`, or comes
from an installed package by an entry point of the group ``rfbench.measures``. Nothing is registered anywhere.
"""

from rfbench.measures.base import find_measure, measure_names

__all__ = ["find_measure", "measure_names"]
