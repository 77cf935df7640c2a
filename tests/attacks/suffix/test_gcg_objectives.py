from __future__ import annotations

import math

import pytest
import torch

from rfbench.attacks.suffix.objectives import (
    Pressure,
    cross_entropy,
    flag_pressure,
    mellowmax,
    objective,
    with_flag_pressure,
)

LOGITS = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]], [[0.0, math.log(3)], [0.0, 0.0]]])
TARGETS = torch.tensor([[0, 0], [0, 1]])


def test_cross_entropy_by_hand() -> None:
    # Row 0: P = 1/2 and 3/4. Row 1: P = 1/4 and 1/2. Mean of -ln P over two target tokens.
    expected = [(math.log(2) + math.log(4 / 3)) / 2, (math.log(4) + math.log(2)) / 2]
    assert cross_entropy(LOGITS, TARGETS).tolist() == pytest.approx(expected)
    assert objective(None)(LOGITS, TARGETS).tolist() == pytest.approx(expected)


def test_mellowmax_by_hand() -> None:
    # Negated logits of the target, row 0: 0 and -ln 3. ln((1 + 1/3) / 2) = ln(2/3). Row 1: 0 and 0.
    assert objective(1.0)(LOGITS, TARGETS).tolist() == pytest.approx([math.log(2 / 3), 0.0])
    # alpha 2: ln((1 + 1/9) / 2) / 2
    assert mellowmax(LOGITS, TARGETS, 2.0).tolist() == pytest.approx([math.log(5 / 9) / 2, 0.0])


def test_mellowmax_goes_from_the_mean_to_the_maximum() -> None:
    assert mellowmax(LOGITS, TARGETS, 1e-4)[0].item() == pytest.approx(-math.log(3) / 2, abs=1e-3)
    assert mellowmax(LOGITS, TARGETS, 1e3)[0].item() == pytest.approx(0.0, abs=1e-2)


# Three ids, the flag is id 2. P(flag): row 0: 1/2 and 1/5, row 1: 0.9 and 1/3.
FLAG_LOGITS = torch.tensor(
    [[[0.0, 0.0, math.log(2)], [math.log(3), 0.0, 0.0]], [[0.0, 0.0, math.log(18)], [0.0, 0.0, 0.0]]]
)


@pytest.mark.parametrize(
    ("pressure", "first", "expected"),
    [
        ("sum", 1, [0.7, 0.9 + 1 / 3]),
        ("max", 1, [0.5, 0.9]),
        ("first", 1, [0.5, 0.9]),
        ("first", 2, [0.7, 0.9 + 1 / 3]),
        ("first", 9, [0.7, 0.9 + 1 / 3]),
    ],
)
def test_flag_pressure_by_hand(pressure: Pressure, first: int, expected: list[float]) -> None:
    assert flag_pressure(FLAG_LOGITS, 2, pressure, first).tolist() == pytest.approx(expected)


def test_the_penalty_is_counted_once() -> None:
    targets = torch.tensor([[0, 0], [1, 0]])
    # Row 0: P(target) = 1/4 and 3/5; row 1: 1/20 and 1/3.
    losses = [(math.log(4) + math.log(5 / 3)) / 2, (math.log(20) + math.log(3)) / 2]
    total = with_flag_pressure(cross_entropy, 3.0, 2, "sum", 1)(FLAG_LOGITS, targets)
    assert total.tolist() == pytest.approx([losses[0] + 3 * 0.7, losses[1] + 3 * (0.9 + 1 / 3)])
    nothing = with_flag_pressure(cross_entropy, 0.0, 2, "sum", 1)(FLAG_LOGITS, targets)
    assert torch.equal(nothing, cross_entropy(FLAG_LOGITS, targets))
