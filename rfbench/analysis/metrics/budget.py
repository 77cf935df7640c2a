"""What an optimised attack had reached with how much: defence against steps, queries and operations.

An optimiser makes an attempt at step 0, with the text that it starts from, and at later steps with its best text so
far. After a step the last attempt up to there counts, whether a search has ended before or goes on. A metric after a
step is called ``<metric>@after <step>``, and so are ``n_queries`` and ``flops``, what a behavior had cost by then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rfbench.analysis.section import UNDEFINED, Section, clean, counts, interval

if TYPE_CHECKING:
    import pandas as pd

    from rfbench.analysis.section import Cells, Metric

BUDGETED = ("dsr", "flag_dsr", "refusal_dsr", "fpr", "over_refusal", "false_alarm")
"""Metrics that are computed after every step."""
COSTS = ("n_queries", "flops")
KEPT, SHOWN = 50, 6
"""Steps of a search that the summary has at most, and a table for people; of more, some at even distances."""
_AT = "@after "

CostRow = tuple[str, float, int]
"""A cost, its median over behaviors (of several seeds their mean), and how many of them it is known of."""


def budgets(rows: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """The steps of one cell, each with the rows that count there, as final ones.

    Args:
        rows: records of the cell. Without an optimiser's steps among them nothing is yielded. A behavior on which an
            error struck is unscored at every step: it was not attacked in full.
    """
    import pandas as pd

    if "then" in rows and (rows["then"] != "").any():
        return  # of a weight attack, whose steps are those of its training
    if "n_queries" not in rows or not rows["n_queries"].notna().any():
        return
    failed = rows["final"].astype(bool) & (rows["verdict"] == "unscored")
    search = ["behavior_id", "seed"]
    struck = rows[failed]
    sound = rows[~rows.set_index(search).index.isin(struck.set_index(search).index)]
    steps = sorted(map(int, sound["step"].unique()))
    for step in _some(steps, KEPT) if len(steps) > 1 else ():
        so_far = sound[sound["step"] <= step]
        latest = so_far.groupby(search)["step"].transform("max")
        counting = so_far[so_far["step"] == latest]
        yield step, (pd.concat([counting, struck]) if len(struck) else counting).assign(final=True)


def costs(rows: pd.DataFrame) -> Iterator[CostRow]:
    """What the attempts of one step cost, each with all that came before it."""
    for name in COSTS:
        searches = rows.groupby(["behavior_id", "seed"])[name].first().dropna().astype(float)
        known = searches.groupby("behavior_id").mean()
        if len(known):
            yield name, float(np.median(known)), len(known)


def after(metric: str, step: int) -> str:
    """Name of a metric after a step."""
    return f"{metric}{_AT}{step}"


def budget_section(dataset: str, benign: str | None, cells: Cells) -> Section | None:
    """Defence against budget on one harmful dataset, ``None`` where no optimiser made more than one attempt."""
    lines = []
    for (model, label, name), metrics in cells.items():
        beside = cells.get((model, label, benign), {}) if benign else {}
        alarms = _steps(beside, "false_alarm")
        for step in _some(_steps(metrics, "dsr"), SHOWN) if name == dataset else ():
            # Searches that stop early have steps of their own; here, too, the last one up to a step counts.
            reached = max((known for known in alarms if known <= step), default=None)
            dsr, alarm = metrics[after("dsr", step)], None if reached is None else beside[after("false_alarm", reached)]
            lines.append(
                (
                    clean(model),
                    f"{clean(label)}, step {step}",
                    *(_amount(metrics.get(after(cost, step))) for cost in COSTS),
                    interval(dsr),
                    "not run" if alarm is None else interval(alarm),
                    *counts(dsr),
                )
            )
    if not lines:
        return None
    title = f"dsr against budget: {clean(dataset)}, % of behaviors [95 % interval]"
    note = (
        "queries: sequences evaluated, flops: floating-point operations, both up to this step, median over behaviors. "
        "More steps are in summary.csv."
    )
    columns = ("model", "attack", "queries", "flops", "dsr", "false_alarm", "n", "unscored")
    return Section(title, columns, tuple(lines), (note,))


def _steps(metrics: Mapping[str, Metric], metric: str) -> list[int]:
    return sorted(int(name.rpartition(_AT)[2]) for name in metrics if name.startswith(metric + _AT))


def _some(steps: Sequence[int], n: int) -> list[int]:
    """At most ``n`` of them, the first and the last included."""
    if len(steps) <= n:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (n - 1))] for i in range(n)]


def _amount(metric: Metric | None) -> str:
    if metric is None or math.isnan(metric["value"]):
        return UNDEFINED
    value = float(metric["value"])
    return f"{value:.0f}" if value < 1e6 else f"{value:.1e}".replace("e+", "e")
