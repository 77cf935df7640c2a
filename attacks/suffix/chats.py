"""The chats that a suffix is optimised in, and the gradient of the loss there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfbench.attacks.suffix.candidates import Scorer
from rfbench.attacks.suffix.evaluator import Evaluator
from rfbench.attacks.suffix.layout import Ids, Layout, RoundTrip
from rfbench.errors import AttackError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Placement:
    """A suffix's place in one chat under one model."""

    evaluator: Evaluator
    layout: Layout
    round_trip: RoundTrip | None
    """``None``: ids that do not survive re-tokenisation are let through."""
    draft: Scorer | None = None


@dataclass(frozen=True, slots=True)
class PlacedSuffix:
    """A suffix ``(s,)`` in all of its chats, and the number of ids that the search space covers."""

    placements: Sequence[Placement]
    ids: Ids
    n_ids: int


def gradients_or_errors(suffixes: Mapping[str, PlacedSuffix]) -> dict[str, tuple[torch.Tensor, float] | AttackError]:
    """See :func:`gradients`; when the batch fails (out of memory), each suffix by itself, or its error."""
    try:
        return {**gradients(suffixes)}
    except AttackError as error:
        if len(suffixes) == 1:
            return dict.fromkeys(suffixes, error)
        alone = [gradients_or_errors({name: suffix}) for name, suffix in suffixes.items()]
        return {name: outcome for one in alone for name, outcome in one.items()}


def gradients(suffixes: Mapping[str, PlacedSuffix]) -> dict[str, tuple[torch.Tensor, float]]:
    """Gradient ``(s, n_ids)`` at each suffix, by name, and its cost; all of a model's chats in one batch.

    The mean over chats for one model. With several models their gradients are brought to unit length by position
    before the mean, as in arXiv 2307.15043, whose code does so because models differ in scale.

    Raises:
        AttackError: memory does not suffice for one sequence.
    """
    evaluators = list(
        dict.fromkeys(placement.evaluator for suffix in suffixes.values() for placement in suffix.placements)
    )
    sums: dict[str, tuple[torch.Tensor, float]] = {}
    for evaluator in evaluators:
        asked = [
            (name, placement.layout, suffix.ids)
            for name, suffix in suffixes.items()
            for placement in suffix.placements
            if placement.evaluator is evaluator
        ]
        found, flops = evaluator.gradients([(layout, ids) for _, layout, ids in asked])
        for name in dict.fromkeys(name for name, _, _ in asked):
            own = [g for g, (owner, _, _) in zip(found, asked, strict=True) if owner == name]
            mean = (sum(own[1:], start=own[0]) / len(own))[:, : suffixes[name].n_ids]
            if len(evaluators) > 1:
                mean = mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-30)
            cost = flops * len(own) / len(asked)
            if name in sums:
                total, spent = sums[name]
                sums[name] = (total + mean.to(total.device), spent + cost)
            else:
                sums[name] = (mean, cost)
    return sums
