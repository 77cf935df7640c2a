"""Measures: figures about a model rather than about a completion, beside dsr. Importing this imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfbench.errors import ConfigError
from rfbench.files.text import did_you_mean

if TYPE_CHECKING:
    from rfbench.measures.base import Measure

MEASURES = ("lm_eval", "utility")
"""Names of the measures; each is the one ``Measure`` of the module of its name."""


def find_measure(name: str) -> type[Measure]:
    """The measure class called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name == "lm_eval":
        from rfbench.measures.lm_eval import LmEval

        return LmEval
    if name == "utility":
        from rfbench.measures.utility import Utility

        return Utility
    raise ConfigError(f"unknown measure {name!r}; {did_you_mean(name, MEASURES)}")
