from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rfbench.models.hf.sampling import _truncation, draw, row_uniforms

# Probabilities 0.5, 0.3, 0.15, 0.05, in shuffled places.
PROBABILITIES = torch.tensor([0.05, 0.5, 0.15, 0.3])
LOGITS = PROBABILITIES.log()


def pick(
    uniform: float, *, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, logits: torch.Tensor = LOGITS
) -> int:
    settings = (torch.tensor([uniform]), torch.tensor([temperature]), torch.tensor([top_p]), torch.tensor([top_k]))
    return int(draw(logits[None].clone(), *settings))


def test_inverse_of_the_cumulative_distribution_by_hand() -> None:
    # In the order of ids the mass ends at 0.05, 0.55, 0.70, 1.00.
    picked = [pick(u) for u in (0.0, 0.04, 0.06, 0.54, 0.56, 0.69, 0.71, 0.999)]
    assert picked == [0, 0, 1, 1, 2, 2, 3, 3]


def test_top_k_by_hand() -> None:
    # The two likeliest, ids 1 and 3, share the mass as 5/8 and 3/8.
    assert [pick(u, top_k=2) for u in (0.0, 0.62, 0.63, 0.999)] == [1, 1, 3, 3]
    assert {pick(u, top_k=1) for u in (0.0, 0.5, 0.999)} == {1}
    assert [pick(u, top_k=3) for u in (0.52, 0.53, 0.68, 0.69)] == [1, 2, 2, 3]  # 50, 65 and 95 of 95


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.0, {1}), (0.49, {1}), (0.51, {1, 3}), (0.79, {1, 3}), (0.81, {1, 3, 2})]
)
def test_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, kept: set[int]) -> None:
    assert {pick(u, top_p=top_p) for u in np.linspace(0, 0.9999, 200)} == kept


def test_nucleus_counts_the_mass_that_top_k_left() -> None:
    # Of the top two, id 1 holds 5/8: with top_p 0.6 it stands alone, with 0.63 it does not.
    assert {pick(u, top_k=2, top_p=0.6) for u in (0.0, 0.999)} == {1}
    assert {pick(u, top_k=2, top_p=0.63) for u in (0.0, 0.999)} == {1, 3}


def test_of_equals_at_the_border_the_smaller_ids_are_kept() -> None:
    logits = torch.tensor([0.2, 0.1, 0.2, 0.4, 0.1]).log()
    uniforms = np.linspace(0, 0.9999, 200)
    assert {pick(u, top_k=2, logits=logits) for u in uniforms} == {3, 0}
    assert {pick(u, top_k=4, logits=logits) for u in uniforms} == {3, 0, 2, 1}
    assert {pick(u, top_p=0.75, logits=logits) for u in uniforms} == {3, 0, 2}
    assert {pick(u, top_p=0.5, logits=logits) for u in uniforms} == {3, 0}


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40),  # few values: many are equal
    st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 45)), min_size=1, max_size=4),
)
def test_truncation_is_a_prefix_of_the_stable_order(weights: list[int], rows: list[tuple[float, int]]) -> None:
    probabilities = torch.tensor(weights, dtype=torch.float32).softmax(-1)
    top_p, top_k = (torch.tensor(column)[:, None] for column in zip(*rows, strict=True))
    kept = _truncation(probabilities.repeat(len(rows), 1), top_p.float(), top_k)
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    for mask, (p, k) in zip(kept, rows, strict=True):
        n = int(mask.sum())
        assert set(mask.nonzero().flatten().tolist()) == set(order[:n])
        assert 1 <= n <= (k or len(weights))
        head = probabilities[order[: k or None]].double()
        if p < 1:  # up to rounding, the smallest number of tokens that reaches top_p
            assert n == 1 or head[: n - 1].sum() / head.sum() < p + 1e-5
            assert n == len(head) or head[:n].sum() / head.sum() > p - 1e-5
        else:
            assert n == len(head)


def test_temperature_by_hand() -> None:
    # At temperature 0.5 probabilities square and are normalised: 0.0025, 0.25, 0.0225, 0.09 over 0.365.
    edges = np.cumsum([0.0025, 0.25, 0.0225, 0.09]) / 0.365
    for i, edge in enumerate(edges):
        assert pick(edge - 1e-4, temperature=0.5) == i
    assert pick(edges[0] + 1e-4, temperature=0.5) == 1


def test_temperature_zero_is_greedy_and_takes_the_first_of_equals() -> None:
    assert pick(0.999, temperature=0.0) == 1
    assert pick(0.999, temperature=0.0, logits=torch.zeros(4)) == 0


def test_logits_that_are_no_numbers_give_some_id_and_strike_no_other_row() -> None:
    logits = torch.stack([torch.full((4,), torch.nan), LOGITS, LOGITS])
    for temperature, top_p in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.9)):
        settings = torch.full((3,), temperature), torch.full((3,), top_p), torch.zeros(3, dtype=torch.int64)
        ids = draw(logits, torch.tensor([0.5, 0.5, 0.04]), *settings).tolist()
        assert 0 <= ids[0] < 4
        assert ids[1:] == [pick(u, temperature=temperature, top_p=top_p) for u in (0.5, 0.04)]


def test_each_row_has_its_own_settings() -> None:
    rows = [(0.99, 0.0, 1.0, 0), (0.01, 1.0, 1.0, 0), (0.99, 1.0, 0.6, 0), (0.01, 1.0, 1.0, 3), (0.69, 1.0, 1.0, 0)]
    together = draw(LOGITS.repeat(5, 1), *map(torch.tensor, zip(*rows, strict=True)))
    # Each for itself, a row without truncation must not be drawn otherwise because others are truncated.
    alone = [pick(u, temperature=t, top_p=p, top_k=k) for u, t, p, k in rows]
    assert together.tolist() == alone == [1, 0, 3, 1, 2]


def test_seeded_frequencies_match_the_distribution() -> None:
    n = 20_000
    uniforms = torch.from_numpy(row_uniforms(0, "b", 0, 0, n)).float()
    ones, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int64)
    for top_k, expected in ((0, PROBABILITIES), (3, torch.tensor([0.0, 0.5, 0.15, 0.3]) / 0.95)):
        ids = draw(LOGITS.repeat(n, 1), uniforms, ones, ones, zeros + top_k)
        counts = torch.bincount(ids, minlength=4).double()
        kept = expected > 0
        assert counts[~kept].sum() == 0
        chi_square = ((counts - n * expected) ** 2 / (n * expected))[kept].sum()
        assert chi_square < 16.3  # 0.1 % point at 3 degrees of freedom


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=40),
    st.floats(0, 1, width=32),  # 1 stands for a draw that rounds up in single precision
    st.floats(0.0625, 8, width=32),
    st.floats(0, 1, width=32),
    st.integers(0, 5),
)
def test_only_tokens_with_mass_inside_the_truncation(
    logits: list[float], uniform: float, temperature: float, top_p: float, top_k: int
) -> None:
    values = torch.tensor(logits)
    picked = pick(uniform, temperature=temperature, top_p=top_p, top_k=top_k, logits=values)
    probabilities = (values / temperature).softmax(-1)
    better = probabilities[probabilities > probabilities[picked]]
    assert probabilities[picked] > 0
    if top_k:
        assert len(better) < top_k
    if top_p < 1 and not top_k:
        assert better.sum() <= top_p + 1e-5


def test_streams_are_named_by_what_they_belong_to_and_nothing_else() -> None:
    base = row_uniforms(0, "b", 0, 0, 8)
    others = [row_uniforms(1, "b", 0, 0, 8), row_uniforms(0, "c", 0, 0, 8), row_uniforms(0, "b", 1, 0, 8)]
    others.append(row_uniforms(0, "b", 0, 1, 8))
    assert all(not np.allclose(base, other) for other in others)
    np.testing.assert_array_equal(base[:3], row_uniforms(0, "b", 0, 0, 3))
    # Pinned: a change of these would silently change every sampled result.
    np.testing.assert_allclose(base[:2], PINNED, rtol=0, atol=1e-15)


PINNED = (0.5900556622505856, 0.8341081684831883)
