"""Judges: second opinions on answers, read from a finished run. Importing this imports nothing heavy.

A new judge is one module of this folder with one public subclass of :class:`~rfbench.judges.base.Judge`, or comes from
an installed package by an entry point of the group ``rfbench.judges``. Nothing is registered anywhere.
"""

from rfbench.judges.base import find_judge, judge_names

__all__ = ["find_judge", "judge_names"]
