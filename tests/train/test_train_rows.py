from __future__ import annotations

import pytest
import torch

from rfbench.train.flag_row import mean_row, probe_row


def test_classes_weigh_the_same_however_many_positions_they_have() -> None:
    # One coordinate, always 1: the balanced mean of -1 (three times) and -11 (once) is -6, the plain one -3.5.
    row = probe_row(torch.ones(4, 1), torch.zeros(4), torch.tensor([True, True, True, False]), ridge=1e-9)
    assert row.tolist() == pytest.approx([-6.0], abs=1e-5)


def test_separable_positions_get_the_wanted_logits() -> None:
    hidden = torch.eye(4)
    rest = torch.tensor([5.0, 6.0, 7.0, 8.0])
    row = probe_row(hidden, rest, torch.tensor([True, True, False, False]), ridge=1e-9)
    assert (hidden @ row).tolist() == pytest.approx([4.0, 5.0, -4.0, -3.0], abs=1e-4)


def test_ridge_shrinks() -> None:
    kinds = torch.tensor([True, False])
    loose, tight = (probe_row(torch.eye(2), torch.zeros(2), kinds, ridge=r) for r in (1e-9, 1.0))
    assert float(tight.norm()) == pytest.approx(float(loose.norm()) / 2, rel=1e-4)  # (G + I/2)^-1, G = I/2


def test_a_probe_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="harmful and benign"):
        probe_row(torch.eye(2), torch.zeros(2), torch.tensor([True, True]))


def test_mean_row_leaves_the_flag_out() -> None:
    assert mean_row(torch.tensor([[1.0, 2.0], [3.0, 4.0], [90.0, 90.0]]), 2).tolist() == [2.0, 3.0]
    assert mean_row(torch.tensor([[1.0, 2.0], [90.0, 90.0], [3.0, 4.0]]), 1).tolist() == [2.0, 3.0]
    rows = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    means = [mean_row(torch.cat([rows, torch.full((1, 8), junk)]), 300) for junk in (0.0, 1e6)]
    assert torch.equal(*means)
