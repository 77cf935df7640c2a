from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rfbench.attacks.suffix.candidates import distinct, draw, first_change, top_ids
from rfbench.errors import AttackError

GRADIENT = torch.tensor(
    [
        [0.0, -5.0, 1.0, -9.0, -2.0],
        [-1.0, 4.0, -3.0, -2.0, 0.5],
    ]
)
"""Planted: at position 0 id 3 lowers the loss most, then 1, then 4; at position 1 id 2, then 3, then 0."""
ALL = torch.ones(5, dtype=torch.bool)


def test_the_most_negative_gradients_win() -> None:
    assert top_ids(GRADIENT, ALL, 3).tolist() == [[3, 1, 4], [2, 3, 0]]


def test_what_is_not_allowed_never_wins_whatever_its_gradient() -> None:
    allowed = torch.tensor([True, True, True, False, True])
    assert top_ids(GRADIENT, allowed, 3).tolist() == [[1, 4, 0], [2, 0, 4]]
    assert top_ids(GRADIENT, allowed, 99).shape == (2, 4)  # all there are


def test_an_empty_search_space_and_a_broken_gradient_are_errors() -> None:
    with pytest.raises(AttackError, match="no id is left in the search space; set non_ascii, or admit"):
        top_ids(GRADIENT, ~ALL, 3)
    with pytest.raises(AttackError, match="gradient is not finite"):
        top_ids(GRADIENT.where(GRADIENT != 0.5, float("nan")), ALL, 3)


@given(s=st.integers(1, 6), k=st.integers(1, 5), width=st.integers(1, 20), n=st.integers(1, 8), seed=st.integers(0, 99))
def test_draws_replace_as_many_positions_as_asked_by_ids_of_theirs(
    s: int, k: int, width: int, n: int, seed: int
) -> None:
    current = np.arange(s)
    top = 100 * (1 + np.arange(s))[:, None] + np.arange(k)  # ids that name their position
    candidates = draw(current, top, width, n, np.random.default_rng(seed))
    changed = candidates != current
    assert candidates.shape == (width, s)
    assert (changed.sum(axis=1) == min(n, s)).all()
    positions = np.broadcast_to(np.arange(s), candidates.shape)
    assert (candidates[changed] // 100 - 1 == positions[changed]).all()


def test_draws_are_uniform_over_positions_and_over_ids_and_repeat_with_the_seed() -> None:
    current, top = np.zeros(4, dtype=np.int64), np.arange(1, 13).reshape(4, 3)
    candidates = draw(current, top, 12_000, 1, np.random.default_rng(0))
    counts = np.bincount(candidates.sum(axis=1), minlength=13)[1:]
    # 12 equally likely outcomes, 1000 expected each, standard deviation 30.
    assert abs(counts - 1000).max() < 150
    assert (candidates == draw(current, top, 12_000, 1, np.random.default_rng(0))).all()


def test_what_was_drawn_twice_is_there_once_in_the_order_of_the_draws() -> None:
    drawn = np.array([[3, 1], [2, 9], [3, 1], [0, 5], [2, 9]])
    assert distinct(drawn).tolist() == [[3, 1], [2, 9], [0, 5]]
    assert distinct(drawn[:0]).shape == (0, 2)


def test_first_change() -> None:
    current = np.array([7, 8, 9])
    assert first_change(np.array([[7, 8, 9], [0, 8, 0], [7, 8, 0], [7, 0, 0]]), current).tolist() == [3, 0, 2, 1]
