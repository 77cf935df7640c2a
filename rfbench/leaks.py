"""When two models flag: the curves of their leaks compared by the log-rank test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rfbench.stats import holm, median_leak

if TYPE_CHECKING:
    import pandas as pd

LEAK_COLUMNS = (
    *("attack_label", "dataset", "baseline", "candidate", "p", "p_holm", "n_baseline", "n_candidate"),
    *("flagged_baseline", "flagged_candidate"),
)
Times = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]


def logrank(baseline: Times, candidate: Times) -> float:
    """Two-sided p-value of the log-rank test (Mantel 1966), each side times ``(n,)`` and whether each was observed.

    NaN where a side is empty, or nothing was observed on either: then there is nothing to compare.
    """
    from scipy.stats import CensoredData
    from scipy.stats import logrank as scipy_logrank

    if not all(len(times) for times, _ in (baseline, candidate)) or not any(o.any() for _, o in (baseline, candidate)):
        return float("nan")
    sides = [CensoredData.right_censored(times, ~observed) for times, observed in (baseline, candidate)]
    with np.errstate(invalid="ignore", divide="ignore"):  # all events at one time leave no variance
        return float(scipy_logrank(*sides).pvalue)


def behavior_leaks(rows: pd.DataFrame) -> Times:
    """Tokens before the flag for each harmful behavior, ``(n,)``, and whether there was one in every sample.

    Samples of one behavior are not independent: the one that flags last counts, and where one does not flag at all the
    behavior is censored at the longest. Behaviors with an unscored sample are left out.
    """
    final = rows[rows["final"].astype(bool) & rows["is_harmful"].astype(bool)]
    scored = (final["verdict"] != "unscored").groupby(final["behavior_id"]).transform("all")
    known = final[scored.astype(bool)]
    by_behavior = known.groupby("behavior_id")
    times = by_behavior["leak"].max().fillna(0).to_numpy(np.float64)
    observed = by_behavior["flagged"].all().to_numpy(bool)
    return times, observed


def compare_leaks(label: str, dataset: str, baseline: pd.DataFrame, candidate: pd.DataFrame) -> dict[str, Any]:
    """A row (``LEAK_COLUMNS``) about one attack and harmful dataset.

    Args:
        label: of the attack.
        dataset: its label.
        baseline: records of the behaviors that both models were asked in the same way; more samples would flag later.
        candidate: the same of the other model. Both have a flag.
    """
    times = [behavior_leaks(side) for side in (baseline, candidate)]
    figures = (
        *(median_leak(*each) for each in times),
        logrank(*times),
        float("nan"),
        *(len(leaks) for leaks, _ in times),
        *(int(observed.sum()) for _, observed in times),
    )
    return dict(zip(LEAK_COLUMNS, (label, dataset, *figures), strict=True))


def leak_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table, with ``p_holm`` corrected over the attacks of a dataset.

    ``baseline`` and ``candidate`` are Kaplan-Meier medians in tokens, infinite where fewer than half flag. The test is
    unpaired: a pair of censored times says little.
    """
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=list(LEAK_COLUMNS))
    tested = table[table["p"].notna()]
    if len(tested):
        adjusted = tested.groupby("dataset")["p"].transform(lambda p: holm(p.to_numpy(np.float64)))
        table["p_holm"] = adjusted.reindex(table.index)
    return table
