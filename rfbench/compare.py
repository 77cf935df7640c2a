"""Two models on the same behaviors, paired: what differs, how surely, and what the data could have shown at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rfbench.errors import ConfigError
from rfbench.leaks import compare_leaks, leak_table
from rfbench.measures.figures import table_order
from rfbench.metrics import RATES, RateMetric, behavior_outcomes, measure_rows
from rfbench.section import clean
from rfbench.sides import Side, unequal_data
from rfbench.stats import (
    ALPHA,
    N_DRAWS,
    bootstrap_mean,
    holm,
    holm_levels,
    mcnemar_exact,
    smallest_detectable_difference,
    wilson,
)
from rfbench.together import TOGETHER_COLUMNS, TOGETHER_METRICS, together

if TYPE_CHECKING:
    import pandas as pd


POWER = 0.8
METRICS = ("dsr", "flag_dsr", "refusal_dsr", "false_alarm", "fpr", "over_refusal")
COLUMNS: tuple[str, ...] = (
    *("attack_label", "dataset", "metric", "baseline", "candidate", "difference", "lo", "hi", "b", "c"),
    *("p", "p_holm", "significant", "n", "n_dropped", "sdd"),
)
MEASURE_COLUMNS = (
    "measure",
    "dataset",
    *(f"{side}{end}" for side in ("baseline", "candidate") for end in ("", "_lo", "_hi")),
)
DROPPED_COLUMNS = ("attack_label", "dataset", "metric", "reason", "n")
SETTINGS = (
    *("attack_params", "attack_version", "seed", "n_samples", "max_new_tokens", "on_flag"),
    *("temperature", "top_p", "top_k"),
)
"""What must be equal for two behaviors to be a pair, beside the number of final attempts."""

_RATES = sorted((rate for rate in RATES if rate.name in METRICS), key=lambda rate: METRICS.index(rate.name))
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A candidate against a baseline, paired by behavior.

    ``table`` has the columns ``COLUMNS``, a row per attack, dataset and metric. ``baseline``, ``candidate`` and their
    ``difference`` (candidate minus baseline) are rates in 0-1 over the ``n`` pairs, ``lo`` and ``hi`` the 95 % interval
    of the difference. On ``b`` pairs the metric holds for the baseline only, on ``c`` for the candidate only. ``p`` is
    McNemar's exact test, ``p_holm`` corrected over the attacks of one dataset and metric, ``significant`` says whether
    that is at most 0.05. ``sdd`` is the smallest difference that ``n`` pairs show with power 0.8. Without a pair the
    figures are NaN and no test is counted.

    ``measures`` (``MEASURE_COLUMNS``) holds the figures about the models themselves, each with its interval: they are
    put side by side, and no test is made. NaN where a side was not measured so.

    ``leaks`` (:data:`rfbench.leaks.LEAK_COLUMNS`) compares when two models with a flag flag, by the log-rank test.
    ``together`` (:data:`rfbench.together.TOGETHER_COLUMNS`) says what either of the two stops, and whether they
    miss the same.

    ``dropped`` (``DROPPED_COLUMNS``) says why ``n_dropped`` behaviors are no pairs. ``header`` holds the lines that
    belong above every rendering: marks, the two models, their settings.
    """

    baseline: str
    candidate: str
    table: pd.DataFrame
    dropped: pd.DataFrame
    leaks: pd.DataFrame
    together: pd.DataFrame
    measures: pd.DataFrame
    header: tuple[str, ...]


def compare(
    baseline: Side | pd.DataFrame,
    candidate: Side | pd.DataFrame,
    *,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> Comparison:
    """Compare two models behavior by behavior.

    Seeds, attempts and samples are folded into one outcome per behavior first, as :func:`rfbench.metrics.summarize`
    does. A behavior is a pair where both models have an outcome and were attacked equally: as many final attempts, and
    equal ``SETTINGS``. Flag metrics are compared where both models have a flag.

    The interval is the percentile bootstrap over pairs. Where all pairs say the same (none differs, or all do and in
    one direction) the bootstrap would claim certainty; the interval then allows the share of pairs that say something
    else to be as large as its Wilson bound.

    Args:
        baseline: one model: what :func:`load_side` gave, or its scored records alone.
        candidate: the other.
        seed: of the bootstrap, which every row starts anew.
        n_draws: draws of the bootstrap.

    Raises:
        ConfigError: no records, more than one model, one label for two configurations, or not a single pair.
    """
    import pandas as pd

    sides = [side if isinstance(side, Side) else Side(side) for side in (baseline, candidate)]
    left_records, right_records = (side.records for side in sides)
    names = _only_model(left_records, "baseline"), _only_model(right_records, "candidate")
    has_flags = all(side.records["flag_id"].notna().any() for side in sides)
    rows: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    leaks: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for label, dataset, side, left, right in _cells(left_records, right_records):
        unequal = _unequal_settings(left, right)
        equal = unequal.index[unequal == ""]
        if side == "harmful" and has_flags and len(equal):
            leaks.append(compare_leaks(label, dataset, *(s[s["behavior_id"].isin(equal)] for s in (left, right))))
        for rate in _RATES:
            if rate.side != side or (rate.needs_flag and not has_flags):
                continue
            cell = {"attack_label": label, "dataset": dataset, "metric": rate.name}
            holds_left, holds_right, reasons = _pair(left, right, rate, unequal)
            figures = paired_figures(holds_left, holds_right, seed=seed, n_draws=n_draws)
            rows.append({**cell, **figures, "n_dropped": int(reasons.sum())})
            if rate.name in TOGETHER_METRICS:
                layers.append({**cell, **together(holds_left, holds_right, seed=seed, n_draws=n_draws)})
            dropped += [{**cell, "reason": reason, "n": int(n)} for reason, n in reasons.items()]
    if not any(row["n"] for row in rows):
        why = ", ".join(dict.fromkeys(row["reason"] for row in dropped)) or "neither has a final attempt"
        raise ConfigError(f"no behavior of {names[0]} and {names[1]} can be paired ({why}); run both on the same suite")
    marks = dict.fromkeys([*sides[0].marks, *sides[1].marks, *unequal_data(*sides)])
    header = (*marks, *_header(names, (left_records, right_records)))
    drops = pd.DataFrame(dropped, columns=DROPPED_COLUMNS)
    beside = leak_table(leaks), pd.DataFrame(layers, columns=list(TOGETHER_COLUMNS)), _measures(sides)
    return Comparison(*names, _with_holm(pd.DataFrame(rows)), drops, *beside, header)


def _measures(sides: Sequence[Side]) -> pd.DataFrame:
    import pandas as pd

    ends = ("value", "lo", "hi")
    figures: list[dict[tuple[str, str], tuple[float, ...]]] = [
        {(row["measure"], row["dataset"]): tuple(row[end] for end in ends) for row in measure_rows(side.measures)}
        for side in sides
    ]
    absent = (math.nan,) * len(ends)
    keys = sorted({**figures[0], **figures[1]}, key=lambda key: table_order(key[0]))
    rows = [(*key, *figures[0].get(key, absent), *figures[1].get(key, absent)) for key in keys]
    return pd.DataFrame(rows, columns=list(MEASURE_COLUMNS))


def _only_model(records: pd.DataFrame, side: str) -> str:
    models = records["model"].unique().tolist()
    if len(models) != 1:
        found = ", ".join(map(repr, models)) or "none"
        raise ConfigError(f"the {side} must be the records of one model, found {found}")
    configurations = records[["attack_label", "dataset", "attack", "attack_params"]].drop_duplicates()
    mixed = configurations[configurations.duplicated(["attack_label", "dataset"])]
    if len(mixed):
        label = mixed.iloc[0]["attack_label"]
        raise ConfigError(f"the {side}: the attack label {label!r} stands for more than one configuration")
    return str(models[0])


def _cells(
    baseline: pd.DataFrame, candidate: pd.DataFrame
) -> Iterator[tuple[str, str, str, pd.DataFrame, pd.DataFrame]]:
    """(attack_label, dataset, "harmful" or "benign", rows of the baseline, of the candidate), where one has any."""
    keys = ["attack_label", "dataset", "is_harmful"]
    left, right = (dict(list(frame.groupby(keys, sort=False))) for frame in (baseline, candidate))
    for key in dict.fromkeys([*left, *right]):
        label, dataset, is_harmful = key
        side = "harmful" if is_harmful else "benign"
        yield str(label), str(dataset), side, left.get(key, baseline.iloc[:0]), right.get(key, candidate.iloc[:0])


def _unequal_settings(left: pd.DataFrame, right: pd.DataFrame) -> pd.Series[Any]:
    """For each behavior of both sides, the names of the settings in which they differ; empty where they do not."""
    import pandas as pd

    a, b = (_settings(rows) for rows in (left, right))
    shared = a.index.intersection(b.index)
    differ = a.loc[shared] != b.loc[shared]
    names = [", ".join(differ.columns[row]) for row in differ.to_numpy(dtype=bool)]
    return pd.Series(names, index=shared, dtype=object)


def _settings(rows: pd.DataFrame) -> pd.DataFrame:
    final = rows[rows["final"].astype(bool)]
    attempts = final[["behavior_id", "seed", "attempt_idx"]].drop_duplicates().groupby("behavior_id").size()
    distinct = final[["behavior_id", *SETTINGS]].drop_duplicates().groupby("behavior_id")
    return distinct[list(SETTINGS)].agg(_distinct).assign(attempts=attempts)


def _distinct(values: pd.Series[Any]) -> str:
    return " ".join(sorted(set(map(str, values))))


def _pair(
    left: pd.DataFrame, right: pd.DataFrame, rate: RateMetric, unequal: pd.Series[Any]
) -> tuple[BoolArray, BoolArray, pd.Series[Any]]:
    """Outcomes of the pairs, shapes ``(n,)``, and how many behaviors are no pairs, by reason."""
    import pandas as pd

    a, b = behavior_outcomes(left, rate), behavior_outcomes(right, rate)
    behaviors = a.index.union(b.index)
    unscored_a, unscored_b = (~behaviors.isin(side.dropna().index) for side in (a, b))
    differing = unequal.reindex(behaviors).fillna("")
    reason = np.select(
        [
            ~behaviors.isin(a.index),
            ~behaviors.isin(b.index),
            unscored_a & unscored_b,
            unscored_a,
            unscored_b,
            (differing != "").to_numpy(),
        ],
        [
            "missing in the baseline",
            "missing in the candidate",
            "unscored in both",
            "unscored in the baseline",
            "unscored in the candidate",
            ("unequal " + differing).to_numpy(dtype=object),
        ],
        default="",
    )
    pairs = behaviors[reason == ""]
    reasons = pd.Series(reason[reason != ""], dtype=object).value_counts()
    return a.loc[pairs].to_numpy(dtype=bool), b.loc[pairs].to_numpy(dtype=bool), reasons


def paired_figures(
    baseline: BoolArray, candidate: BoolArray, *, seed: int = 0, n_draws: int = N_DRAWS
) -> dict[str, Any]:
    """The figures of one row from the outcomes of its pairs, shapes ``(n,)``; what Holm decides comes later."""
    n = len(baseline)
    b, c = int((baseline & ~candidate).sum()), int((~baseline & candidate).sum())
    if not n:
        rates = dict.fromkeys(("baseline", "candidate", "difference", "lo", "hi", "p"), math.nan)
        return {**rates, "b": b, "c": c, "n": n}
    change = candidate.astype(np.float64) - baseline
    if np.ptp(change):
        _, lo, hi = bootstrap_mean(change, np.arange(n), np.random.default_rng(seed), n_draws)
    else:
        # A pair that says something else moves the difference by 1 where none differs, by up to 2 where all do.
        same, other = float(change[0]), wilson(0, n)[1]
        lo, hi = max(same - other * (1 + same), -1.0), min(same + other * (1 - same), 1.0)
    return {
        **{"baseline": float(baseline.mean()), "candidate": float(candidate.mean()), "difference": (c - b) / n},
        **{"lo": lo, "hi": hi, "b": b, "c": c, "p": mcnemar_exact(b, c), "n": n},
    }


def detectable_difference(n: int, discordant: float, alpha: float = ALPHA) -> float:
    """Smallest difference that ``n`` pairs show with power 0.8 (Connor 1987, equation 2.2), as a rate.

    At the observed share of ``discordant`` pairs; where that is too small for any difference to show, at the smallest
    share that a difference needs, its own size (one-sided disagreement). Infinite where the exact test cannot reject
    at the level ``alpha``.
    """
    if mcnemar_exact(n, 0) > alpha:
        return math.inf
    found = smallest_detectable_difference(n, discordant, alpha, POWER)
    if math.isfinite(found):
        return found
    # n x = (z_alpha + z_beta sqrt(1 - x))^2: Connor's equation with x in place of the share; u = sqrt(1 - x).
    z_alpha, z_beta = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(POWER)
    root = (z_alpha * z_beta) ** 2 - (n + z_beta**2) * (z_alpha**2 - n)
    u = (math.sqrt(root) - z_alpha * z_beta) / (n + z_beta**2)
    return 1 - u**2


def _with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """Holm's p-values over the attacks of a dataset and metric, and what the level that each test faced can detect."""
    import pandas as pd

    tested = table[table["n"] > 0]
    families = tested.groupby(["dataset", "metric"])["p"]
    table = table.assign(p_holm=families.transform(lambda p: holm(p.to_numpy())).reindex(table.index))
    tested = tested.assign(level=families.transform(lambda p: holm_levels(p.to_numpy())))
    shares = (tested["b"] + tested["c"]) / tested["n"]
    sdd = [detectable_difference(*row) for row in zip(tested["n"], shares, tested["level"], strict=True)]
    table = table.assign(sdd=pd.Series(sdd, index=tested.index, dtype="float64").reindex(table.index))
    return table.assign(significant=table["p_holm"] <= ALPHA)[list(COLUMNS)]


def _header(names: Sequence[str], sides: Sequence[pd.DataFrame]) -> Iterator[str]:
    for role, name, records in zip(("baseline", "candidate"), names, sides, strict=True):
        biases = ", ".join(f"{bias:+g}" for bias in sorted(records["flag_bias"].unique()))
        flag = f"flag bias {biases}" if records["flag_id"].notna().any() else "no flag"
        yield clean(f"{role} | {name} | {flag}")
    settings = [(name, sorted({*sides[0][name], *sides[1][name]})) for name in ("max_new_tokens", "n_samples", "seed")]
    yield " | ".join(f"{name} {', '.join(map(str, values))}" for name, values in settings)
