from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfbench.models.hf.likelihood import answer_cross_entropy, kl_given_no_flag, log_odds
from rfbench.train import losses

# P(flag) of 1/3 and 1/2 as log-odds: log(1/2) and 0.
S = torch.tensor([[log(0.5), 0.0, 50.0]])
MASK = torch.tensor([[1.0, 1.0, 0.0]])


def test_log_odds_are_against_the_sum_of_the_rest() -> None:
    # Three equal logits, one of them the flag's: P(flag) = 1/3, odds 1:2.
    assert log_odds(torch.zeros(1), torch.zeros(1, 2)).item() == pytest.approx(log(0.5))


def test_flag_cross_entropy_reads_one_index() -> None:
    assert losses.flag_at(S, torch.tensor([0])).item() == pytest.approx(log(3))
    assert losses.flag_at(S, torch.tensor([1])).item() == pytest.approx(log(2))


def test_hazard_is_the_mean_over_real_positions() -> None:
    assert losses.hazard(S, MASK).item() == pytest.approx((log(3) + log(2)) / 2)


def test_false_alarm_mean_and_peak() -> None:
    assert losses.false_alarm(S, MASK).item() == pytest.approx((log(3 / 2) + log(2)) / 2)
    assert losses.false_alarm_peak(S, MASK, "max").item() == pytest.approx(log(2))
    # Odds 1/2 and 1 add up to 3/2.
    assert losses.false_alarm_peak(S, MASK, "logsumexp").item() == pytest.approx(log(2.5))


def test_an_answer_is_missed_when_no_position_flags() -> None:
    # Odds 1/2 and 1 add up to 3/2: P(flag) = 3/5; the position that the mask hides would have settled it.
    assert losses.missed(S, MASK).item() == pytest.approx(log(5 / 3))
    assert losses.missed(S, torch.ones(1, 3)).item() == pytest.approx(0.0, abs=1e-6)


@given(hnp.arrays("float32", (1, 4), elements=st.floats(-30, 30, width=32)))
def test_missed_and_peak_are_the_two_sides_of_one_probability(odds: object) -> None:
    s, mask = torch.tensor(odds).double(), torch.ones(1, 4)
    flagged = (-losses.missed(s, mask)).exp()
    spared = (-losses.false_alarm_peak(s, mask, "logsumexp")).exp()
    torch.testing.assert_close(flagged + spared, torch.ones(1, dtype=torch.float64))


def test_the_largest_of_the_real_positions() -> None:
    assert losses.masked_max(S, MASK).item() == 0.0
    assert losses.masked_max(-S, MASK).item() == pytest.approx(log(2))


def test_a_benign_batch_that_never_flags_costs_nothing() -> None:
    s = torch.full((2, 3), -300.0, requires_grad=True)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    total = losses.false_alarm(s, mask) + losses.false_alarm_peak(s, mask, "max")
    assert total.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(total.sum(), s)
    assert not gradient.any()


def test_kl_given_no_flag_by_hand() -> None:
    reference, model = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log() + 7.0
    assert kl_given_no_flag(model, reference).item() == pytest.approx(0.5 * log(4 / 3), abs=1e-6)
    assert kl_given_no_flag(reference + 3.0, reference).item() == pytest.approx(0.0, abs=1e-6)


finite = st.floats(-8, 8, width=32)


@given(hnp.arrays("float32", (3, 5), elements=finite), hnp.arrays("float32", (3, 5), elements=finite), finite)
def test_kl_with_flag_is_the_kl_over_the_whole_vocabulary(model: object, reference: object, flag: float) -> None:
    p, r = torch.tensor(model).double(), torch.tensor(reference).double()
    z = torch.full((3,), flag, dtype=torch.float64)
    ours = losses.kl_with_flag(log_odds(z, p), kl_given_no_flag(p, r))
    log_p = torch.cat([p, z[:, None]], dim=1).log_softmax(dim=1)[:, :-1]  # the reference gives the flag nothing
    log_r = r.log_softmax(dim=1)
    torch.testing.assert_close(ours, (log_r.exp() * (log_r - log_p)).sum(dim=1), atol=1e-9, rtol=1e-9)
    assert (ours >= -1e-9).all()


def test_answer_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    assert answer_cross_entropy(logits, torch.tensor([0, 1])).tolist() == pytest.approx([log(4), log(2)])


def test_extreme_odds_stay_finite() -> None:
    s = torch.tensor([[1e4, -1e4]], requires_grad=True)
    mask = torch.ones(1, 2)
    total = losses.hazard(s, mask) + losses.false_alarm(s, mask) + losses.false_alarm_peak(s, mask, "logsumexp")
    total = total + losses.missed(s[:, 1:], mask[:, 1:])
    total.sum().backward()
    assert torch.isfinite(total).all()
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()
