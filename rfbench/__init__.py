"""rfbench: how robust language models are to attack, read from red-flag token ids.

Names are imported when they are first used, so that ``import rfbench`` and listing commands stay instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rfbench.analysis.summary import summarize
    from rfbench.models.load import load_model
    from rfbench.run.api import run_suite
    from rfbench.run.store.reader import load_run
    from rfbench.scoring.flags import score_flags
    from rfbench.scoring.refusal.reader import read_refusal

__version__ = "0.1.0"
__all__ = ["__version__", "load_model", "load_run", "read_refusal", "run_suite", "score_flags", "summarize"]

_HOMES = {
    "load_model": "rfbench.models.load",
    "load_run": "rfbench.run.store.reader",
    "run_suite": "rfbench.run.api",
    "read_refusal": "rfbench.scoring.refusal.reader",
    "score_flags": "rfbench.scoring.flags",
    "summarize": "rfbench.analysis.summary",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
