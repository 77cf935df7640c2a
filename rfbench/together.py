"""Two models as two layers of defence: what either stops, and whether they miss the same.

A layer adds to another only so far as it fails elsewhere (what arXiv 2502.16366 claims of a red flag beside a
classifier). What both layers cost is the share of benign requests that either of them flags or refuses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rfbench.stats import ALPHA, N_DRAWS, wilson

TOGETHER_COLUMNS = (
    *("attack_label", "dataset", "metric", "either", "lo", "hi", "phi", "phi_lo", "phi_hi"),
    *("miss_baseline", "miss_candidate", "miss_both", "n"),
)
TOGETHER_METRICS = ("dsr", "false_alarm")
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def phi_coefficient(both: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, neither: npt.ArrayLike) -> Any:
    """Correlation of two binary outcomes from the counts of a 2 x 2 table, any shape.

    ``(both * neither - first * second) / sqrt(product of the four margins)``; NaN where an outcome is constant.
    """
    a, b, c, d = (np.asarray(counts, dtype=np.float64) for counts in (both, first, second, neither))
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(margins > 0, (a * d - b * c) / np.sqrt(margins), np.nan)


def together(baseline: BoolArray, candidate: BoolArray, *, seed: int = 0, n_draws: int = N_DRAWS) -> dict[str, Any]:
    """What two models do together on the same behaviors.

    Args:
        baseline: whether the metric holds for each pair, ``(n,)``.
        candidate: the same of the other model.
        seed: of the bootstrap of phi.
        n_draws: its draws, of whole behaviors; those in which an outcome is constant have no phi and are left out.

    Returns:
        ``either``, the share for which it holds for at least one, with its Wilson interval; ``phi``, the correlation of
        the two, with the percentile interval; ``miss_...``, the behaviors for which it does not hold; ``n``.
    """
    n = len(baseline)
    table = (baseline & candidate, baseline & ~candidate, ~baseline & candidate, ~baseline & ~candidate)
    both, first, second, neither = (int(cell.sum()) for cell in table)
    counts = {"miss_baseline": second + neither, "miss_candidate": first + neither, "miss_both": neither, "n": n}
    if not n:
        return {**dict.fromkeys(("either", "lo", "hi", "phi", "phi_lo", "phi_hi"), math.nan), **counts}
    lo, hi = wilson(n - neither, n)
    phi, phi_lo, phi_hi = float(phi_coefficient(both, first, second, neither)), math.nan, math.nan
    if math.isfinite(phi):
        draws = np.random.default_rng(seed).multinomial(n, np.array([both, first, second, neither]) / n, n_draws)
        drawn: FloatArray = phi_coefficient(*(draws[:, i] for i in range(4)))
        phi_lo, phi_hi = np.nanquantile(drawn, [ALPHA / 2, 1 - ALPHA / 2]).tolist()
    return {
        **{"either": (n - neither) / n, "lo": lo, "hi": hi, "phi": phi, "phi_lo": phi_lo, "phi_hi": phi_hi},
        **counts,
    }
