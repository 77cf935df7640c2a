"""The marks of a run: what a reader must know before its figures. Whatever says so asks for the words here."""

from __future__ import annotations

ACCEPTED = "canary accepted"


def unfinished(units_done: int, units_total: int) -> str:
    """The mark of a run of which planned units are missing, empty where none is."""
    return f"INCOMPLETE {units_done}/{units_total} units" if units_done < units_total else ""


def accepted(model: str = "a model") -> str:
    """The mark of a run in which a model failed the canary and was evaluated all the same."""
    return f"{ACCEPTED}: {model} failed the checks before the run"
