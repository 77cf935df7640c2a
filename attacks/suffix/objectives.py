"""What is minimised: functions from the logits at target positions to one loss per row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits ``(b, t, v)`` in fp32, flag bias included, and target ids ``(b, t)`` to losses ``(b,)``."""

Pressure = Literal["sum", "max", "first"]
"""How P(flag) over the positions of the answer becomes one number; see :func:`flag_pressure`."""


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of the target, in nats per token, ``(b,)`` (arXiv 2307.15043, equation 3)."""
    # On CPUs a whole log-softmax takes a third of the time of logsumexp, which is not one pass.
    return -logits.log_softmax(dim=-1).gather(-1, targets[..., None]).squeeze(-1).mean(dim=-1)


def mellowmax(logits: torch.Tensor, targets: torch.Tensor, alpha: float) -> torch.Tensor:
    """A soft maximum over the target of its negated *logits*, ``(b,)``, as nanoGCG has it.

    ``log(mean(exp(alpha * x))) / alpha`` (mellowmax, arXiv 1612.05628, equation 2): a large ``alpha`` looks at the
    least likely token alone, a small one at the mean. Unlike log-probabilities, logits have no zero of their own:
    such losses can be compared within one model only.
    """
    picked = -logits.gather(-1, targets[..., None]).squeeze(-1)
    return ((alpha * picked).logsumexp(dim=-1) - math.log(picked.shape[-1])) / alpha


def objective(mellowmax_alpha: float | None) -> Objective:
    """Cross-entropy, or mellowmax where its temperature is given."""
    if mellowmax_alpha is None:
        return cross_entropy
    alpha = mellowmax_alpha
    return lambda logits, targets: mellowmax(logits, targets, alpha)


def flag_pressure(logits: torch.Tensor, flag_id: int, pressure: Pressure, first: int) -> torch.Tensor:
    """P(flag) over the positions of the target as one number, ``(b,)``.

    P(flag) where each target token is due, ``(b, t)``: its ``sum``, its ``max``, or its sum over the ``first``
    positions.
    """
    p = logits.log_softmax(dim=-1)[..., flag_id].exp()
    if pressure == "max":
        return p.amax(dim=-1)
    return (p[:, :first] if pressure == "first" else p).sum(dim=-1)


def flag_pressure_objective(flag_id: int, pressure: Pressure, first: int) -> Objective:
    """:func:`flag_pressure` as a figure of a suffix."""
    return lambda logits, targets: flag_pressure(logits, flag_id, pressure, first)


def with_flag_pressure(base: Objective, weight: float, flag_id: int, pressure: Pressure, first: int) -> Objective:
    """``base`` plus ``weight`` times the flag pressure, which is counted once."""

    def total(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return base(logits, targets) + weight * flag_pressure(logits, flag_id, pressure, first)

    return total


def flag_surprisal(logits: torch.Tensor, flag_id: int, first: int | None) -> torch.Tensor:
    """Surprisal of the flag over the positions of the target, in nats, ``(b,)``.

    ``-log`` of the mean of P(flag) over the ``first`` positions of the target, or all of them: 0 where the flag is
    certain. In log space, so that it has a gradient however small the probabilities are.
    """
    log_p = logits.log_softmax(dim=-1)[:, :first, flag_id]
    return math.log(log_p.shape[-1]) - log_p.logsumexp(dim=-1)
