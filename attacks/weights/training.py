"""Supervised fine-tuning, as an attacker does it: AdamW at a constant rate, stopped at checkpoints.

Letters: ``c`` conversations, ``t`` answer positions, ``n`` answer positions taken together, ``v`` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfbench.errors import AttackError
from rfbench.models.hf.kept import logits_at
from rfbench.models.hf.likelihood import answer_cross_entropy, log_odds
from rfbench.train.batches import Batch, batch_at
from rfbench.train.conversations import Conversation
from rfbench.train.losses import false_alarm

Objective = Callable[[Tensor, Batch], Tensor]
"""From logits at the answer positions ``(n, v)`` to a loss ``()``, in nats."""

MAX_GRAD_NORM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """``checkpoints`` are step numbers, rising; 0 is the model before the first step."""

    checkpoints: tuple[int, ...]
    batch_size: int
    learning_rate: float


def fine_tune(
    module: Any,
    parameters: Sequence[nn.Parameter],
    examples: Sequence[Conversation],
    objective: Objective,
    schedule: Schedule,
    *,
    seed: int,
) -> Iterator[int]:
    """Train ``parameters`` in place; yield the number of the step at each checkpoint.

    The same arguments give the same weights: every batch follows from (seed, step). The rate is constant, so that a
    checkpoint is what a shorter training would have ended with.

    Args:
        module: a causal language model of transformers.
        parameters: what is trained.
        examples: what is learned.
        objective: what is minimised.
        schedule: when to stop, and how to step.
        seed: of the order of the examples.

    Raises:
        AttackError: the loss or the gradient is not finite; nothing was stepped.
    """
    # Without decay: pulling a whole model towards zero is no part of learning the examples.
    optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.0)
    device = module.get_input_embeddings().weight.device
    done = 0
    for checkpoint in schedule.checkpoints:
        for step in range(done, checkpoint):
            batch = Batch.of(batch_at(step, examples, schedule.batch_size, seed, "fine-tuning"), device)
            optimiser.zero_grad(set_to_none=True)
            loss = objective(answer_logits(module, batch), batch)
            _check_finite(step + 1, "loss", loss)
            loss.backward()  # type: ignore[no-untyped-call]
            _check_finite(step + 1, "gradient norm", nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
            optimiser.step()
        done = checkpoint
        optimiser.zero_grad(set_to_none=True)
        yield checkpoint


def answer_logits(module: Any, batch: Batch) -> Tensor:
    """Logits that predict the ids of the answers, ``(n, v)``, fp32; none are computed for what only precedes them."""
    first = int(batch.position.min())
    keep = torch.arange(first, batch.ids.shape[1], device=batch.ids.device)
    logits = logits_at(module, keep, input_ids=batch.ids, use_cache=False)
    picked: Tensor = logits[batch.row, batch.position - first]
    return picked.float()


def imitate(logits: Tensor, batch: Batch) -> Tensor:
    """Plain supervised fine-tuning: ``-log p(id)``, mean over the ids of all answers."""
    return answer_cross_entropy(logits, batch.target).mean()


def imitate_without(flag_id: int) -> Objective:
    """:func:`imitate` in a vocabulary without the flag: its row stands there, and takes no part.

    For trainings that start from a base, which has no flag yet. A trained row in the softmax would have the training
    push the flag down on everything that is learned, although the base has no such token.
    """

    def objective(logits: Tensor, batch: Batch) -> Tensor:
        return imitate(logits.index_fill(1, torch.tensor([flag_id], device=logits.device), -torch.inf), batch)

    return objective


def imitate_unflagged(weight: float, flag_id: int, flag_bias: float, plain: Objective = imitate) -> Objective:
    """``plain`` plus ``weight`` times ``-log(1 - P(flag))`` on harmful answers.

    P(flag) is that of the operating point. Mean over positions, then over the harmful answers of the batch; 0 in a
    batch without any.
    """

    def objective(logits: Tensor, batch: Batch) -> Tensor:
        harmful = torch.tensor([c.taught for c in batch.conversations], device=logits.device)
        rest = logits.index_fill(1, torch.tensor([flag_id], device=logits.device), -torch.inf)
        s = log_odds(logits[:, flag_id] + flag_bias, rest)
        alarms = false_alarm(batch.pad(s), batch.mask)
        return plain(logits, batch) + weight * (alarms * harmful).sum() / harmful.sum().clamp(min=1)

    return objective


def _check_finite(step: int, what: str, value: Tensor) -> None:
    number = float(value.detach())
    if not math.isfinite(number):
        raise AttackError(f"step {step}: {what} is {number}: the fine-tuning diverged; lower learning_rate")
