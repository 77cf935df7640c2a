"""Rows of summaries made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import pandas as pd

from rfbench.analysis.metrics.row import MetricRow, from_frame, to_frame
from rfbench.analysis.outcomes import held_rate


def rate(k: float, n: int, n_unscored: int = 0, worse: Literal[0, 1] = 0) -> MetricRow:
    """The figures of ``k`` in ``n`` scored behaviors; without a scored behavior there is no value."""
    if n + n_unscored == 0:
        return MetricRow()
    figures = held_rate(k, k + n_unscored, n, n + n_unscored, worse)
    return figures if n else replace(figures, value=float("nan"), value_optimistic=float("nan"))


def as_columns(row: MetricRow, **cell: str) -> dict[str, Any]:
    """A row as the columns of a summary that has the old ones alone."""
    figures = {name: value for name, value in asdict(row).items() if name not in ("stage", "step")}
    return figures | cell


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A summary with all columns."""
    made = [dict(row) for row in rows]
    return to_frame(from_frame(pd.DataFrame(made)) if made else [])
