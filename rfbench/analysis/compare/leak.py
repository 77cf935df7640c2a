"""When two models flag: the curves of their leaks compared by the log-rank test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rfbench.analysis.stats import median_leak

if TYPE_CHECKING:
    import pandas as pd

LEAK_COLUMNS = (
    *("attack_label", "dataset", "baseline", "candidate", "p", "p_holm", "n_baseline", "n_candidate"),
    *("flagged_baseline", "flagged_candidate", "significant"),
)
Times = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]


def logrank(baseline: Times, candidate: Times) -> float:
    """Two-sided p-value of the log-rank test (Mantel 1966), each side times ``(n,)`` and whether each was observed.

    NaN where a side is empty, or nothing was observed on either: then there is nothing to compare.
    """
    return _logrank(baseline, candidate)[1]


def _logrank(baseline: Times, candidate: Times) -> tuple[float, float]:
    """The statistic, standard normal where the curves are one, and its two-sided p-value."""
    from scipy.stats import CensoredData
    from scipy.stats import logrank as scipy_logrank

    if not all(len(times) for times, _ in (baseline, candidate)) or not any(o.any() for _, o in (baseline, candidate)):
        return float("nan"), float("nan")
    sides = [CensoredData.right_censored(times, ~observed) for times, observed in (baseline, candidate)]
    with np.errstate(invalid="ignore", divide="ignore"):  # all events at one time leave no variance
        found = scipy_logrank(*sides)
    return float(found.statistic), float(found.pvalue)


def logrank_of_seeds(seeds: Sequence[tuple[Times, Times]]) -> float:
    """The p-value of several seeds: of the mean of their statistics.

    Seeds ask the same behaviors, so the mean varies as much as one of them or less: the level is kept. A seed under
    which nothing was flagged shows no difference. NaN where no seed shows anything.
    """
    from scipy.stats import norm

    found = [_logrank(*sides) for sides in seeds]
    if len(found) == 1:
        return found[0][1]
    statistics = np.array([statistic for statistic, _ in found])
    if not len(statistics) or np.isnan(statistics).all():
        return float("nan")
    return float(2 * norm.sf(abs(np.nan_to_num(statistics).mean())))


def behavior_leaks(rows: pd.DataFrame) -> Times:
    """Tokens before the flag for each harmful behavior under one seed, ``(n,)``, and whether every sample has one.

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
    seeds = sorted({*baseline["seed"].unique(), *candidate["seed"].unique()})
    by_seed = [tuple(behavior_leaks(side[side["seed"] == seed]) for side in (baseline, candidate)) for seed in seeds]
    sides = [[of_seed[side] for of_seed in by_seed] for side in (0, 1)]
    pooled = [tuple(np.concatenate(part) for part in zip(*side, strict=True)) for side in sides]
    figures = (
        *(median_leak(*each) for each in pooled),
        logrank_of_seeds([(left, right) for left, right in by_seed]),
        float("nan"),
        *(len(leaks) / len(seeds) for leaks, _ in pooled),
        *(float(observed.sum()) / len(seeds) for _, observed in pooled),
        False,
    )
    return dict(zip(LEAK_COLUMNS, (label, dataset, *figures), strict=True))


def leak_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table; ``p_holm`` and ``significant`` come with all other tests of the comparison.

    ``baseline`` and ``candidate`` are Kaplan-Meier medians in tokens, infinite where fewer than half flag. The test is
    unpaired: a pair of censored times says little. ``n_...`` and ``flagged_...`` are behaviors, of several seeds the
    mean.
    """
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(LEAK_COLUMNS))
