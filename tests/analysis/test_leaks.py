"""Leaks of two models by the log-rank test: against a published example, by hand, and through the comparison."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.duration.survfunc import survdiff

from rfbench.analysis.compare.leak import behavior_leaks, logrank, logrank_of_seeds
from rfbench.analysis.compare.paired import compare
from rfbench.analysis.compare.tables import sections

# Remission in weeks of 42 leukaemia patients (Freireich 1963): chi squared 16.79, p below .0001.
TREATED = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
RELAPSED = [True] * 9 + [False] * 12
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def times(values: list[int], observed: list[bool]) -> tuple[Any, Any]:
    return np.array(values, dtype=np.float64), np.array(observed)


def test_against_a_published_example_and_statsmodels() -> None:
    treated, placebo = times(TREATED, RELAPSED), times(PLACEBO, [True] * 21)
    p = logrank(treated, placebo)
    group = [0] * 21 + [1] * 21
    statistic, expected = survdiff(np.array(TREATED + PLACEBO), np.array(RELAPSED + [True] * 21), np.array(group))
    assert statistic == pytest.approx(16.79, abs=0.01)
    assert p == pytest.approx(expected, rel=1e-6)
    assert logrank(placebo, treated) == pytest.approx(p)


def test_where_there_is_nothing_to_compare() -> None:
    some, none = times([1, 2], [True, True]), times([], [])
    assert math.isnan(logrank(some, none))
    assert math.isnan(logrank(times([4], [False]), times([4], [False])))


def test_several_seeds_are_one_test_of_their_mean_statistic() -> None:
    treated, placebo = times(TREATED, RELAPSED), times(PLACEBO, [True] * 21)
    p = logrank(treated, placebo)
    assert logrank_of_seeds([(treated, placebo)]) == p
    assert logrank_of_seeds([(treated, placebo)] * 2) == pytest.approx(p)  # the same again is no more evidence
    assert logrank_of_seeds([(treated, placebo), (placebo, treated)]) == pytest.approx(1.0)
    nothing = times([4], [False])
    assert p < logrank_of_seeds([(treated, placebo), (nothing, nothing)]) < 0.05
    assert math.isnan(logrank_of_seeds([(nothing, nothing)] * 2))


def row(behavior: str, leak: int, flagged: bool | None, **fields: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "attack": "direct",
        "attack_label": "direct",
        "attack_params": "{}",
        "attack_version": 1,
        "dataset": "core/harmful",
        "behavior_id": behavior,
        "is_harmful": True,
        "seed": 0,
        "attempt_idx": 0,
        "sample_idx": 0,
        "final": True,
        "flag_id": 9,
        "flag_bias": 0.0,
        "n_samples": 1,
        "max_new_tokens": 8,
        "on_flag": "stop",
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "verdict": "unscored" if flagged is None else "flagged" if flagged else "complied",
        "flagged": flagged,
        "flag_pos": leak if flagged else -1,
        "leak": leak,
        "refused": None if flagged is None else False,
        "refused_early": None,
        "degenerate": None if flagged is None else False,
    } | fields


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    kinds = dict.fromkeys(("flagged", "refused", "refused_early", "degenerate"), "boolean")
    return pd.DataFrame(list(rows)).astype(kinds | dict.fromkeys(("flag_id", "flag_pos", "leak"), "Int64"))


def test_samples_are_folded_into_the_behavior_that_flags_last() -> None:
    rows = [
        *(row("late", leak, True, sample_idx=i) for i, leak in enumerate((2, 5))),
        *(row("never", leak, flagged, sample_idx=i) for i, (leak, flagged) in enumerate(((7, True), (8, False)))),
        *(row("lost", leak, flagged, sample_idx=i) for i, (leak, flagged) in enumerate(((1, True), (0, None)))),
        row("step", 1, True, final=False),
        row("benign", 1, True, is_harmful=False),
    ]
    leaks, observed = behavior_leaks(frame(*rows))
    assert (leaks.tolist(), observed.tolist()) == ([5.0, 8.0], [True, False])


def sides(shift: int, n_attacks: int = 1, flag_id: int | None = 9) -> tuple[pd.DataFrame, pd.DataFrame]:
    labels = [{"attack_label": f"a{i}", "attack_params": f'{{"i":{i}}}'} for i in range(n_attacks)]
    early = [row(f"b{i}", i % 3, True, **label) for label in labels for i in range(30)]
    late = [
        row(f"b{i}", i % 3 + shift, True, model="n", flag_id=flag_id, **label) for label in labels for i in range(30)
    ]
    return frame(*early), frame(*late)


def leaks(shift: int, **options: Any) -> pd.DataFrame:
    return compare(*sides(shift, **options), n_draws=10).leaks


def test_a_row_per_attack_with_medians_and_holm() -> None:
    table = leaks(shift=3, n_attacks=3)
    assert table["attack_label"].tolist() == ["a0", "a1", "a2"]
    assert (table["baseline"].tolist(), table["candidate"].tolist()) == ([1.0] * 3, [4.0] * 3)
    assert (table["p"] < 1e-6).all()
    assert table["p_holm"].tolist() == pytest.approx((3 * table["p"]).tolist())
    assert leaks(shift=0)["p"].tolist() == pytest.approx([1.0])
    assert leaks(shift=0, flag_id=None).empty


def test_only_behaviors_that_were_asked_in_the_same_way_count() -> None:
    baseline, candidate = sides(shift=3)
    more = [row(f"b{i}", 8, True, model="n", n_samples=2, sample_idx=s) for i in range(5) for s in range(2)]
    others = candidate[~candidate["behavior_id"].isin({f"b{i}" for i in range(5)})]
    (found,) = compare(baseline, pd.concat([others, frame(*more)]), n_draws=10).leaks.to_dict("records")
    assert (found["n_baseline"], found["n_candidate"]) == (25, 25)
    assert found["candidate"] == 4.0


def test_the_comparison_shows_it() -> None:
    section = next(s for s in sections(compare(*sides(shift=3), n_draws=10)) if s.title == "leak")
    assert section.rows == (("core/harmful", "a0", "1 (30 of 30)", "4 (30 of 30)", "<.001", "<.001*"),)
    assert not [s for s in sections(compare(*sides(shift=0, flag_id=None), n_draws=10)) if s.title == "leak"]
