"""The figures that measures give, by name: what gates, tables and comparisons need to know of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LM_EVAL = "lm_eval/"
"""``lm_eval/<task>/<metric>``: figures whose names the tasks give."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a figure is. A ``rate`` is a share in 0-1; a ``nats`` or ``ratio`` has no upper bound."""

    heading: str
    kind: Literal["rate", "nats", "ratio"]
    better: Literal["lower", "higher"]


FIGURES: Mapping[str, Figure] = {
    "kl_to_base": Figure("KL", "nats", "lower"),
    "greedy_agreement": Figure("agree", "rate", "higher"),
    "greedy_equal": Figure("equal", "rate", "higher"),
    "perplexity": Figure("ppl", "ratio", "lower"),
    "perplexity_ratio": Figure("ppl ratio", "ratio", "lower"),
    "after_flag_perplexity_ratio": Figure("after flag", "ratio", "lower"),
    "after_flag_reflag": Figure("reflag", "rate", "lower"),
}
"""Those of ``utility``, in the order of tables."""


def table_order(metric: str) -> int:
    """Where a figure stands in tables: those of ``utility`` first."""
    return list(FIGURES).index(metric) if metric in FIGURES else len(FIGURES)


def is_figure(metric: str) -> bool:
    """Whether ``metric`` is a figure about a model rather than about completions; those of the canary are none."""
    return metric in FIGURES or is_task_figure(metric)


def is_task_figure(metric: str) -> bool:
    """Whether ``metric`` has the form ``lm_eval/<task>/<metric>``."""
    task, slash, name = metric.removeprefix(LM_EVAL).rpartition("/")
    return metric.startswith(LM_EVAL) and bool(task and slash and name)
