"""What a suffix has to work in: chats under models, and the gradient there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfbench.attacks.suffix.evaluator import Evaluator
from rfbench.attacks.suffix.layout import Ids, Layout, RoundTrip
from rfbench.attacks.suffix.scores import Scorer
from rfbench.errors import AttackError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Site:
    """One chat under one model that a suffix has to work in."""

    evaluator: Evaluator
    layout: Layout
    round_trip: RoundTrip | None
    """``None``: ids that do not survive re-tokenisation are let through."""
    draft: Scorer | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A suffix ``(s,)`` in its chats, and how many ids its search space speaks of."""

    sites: Sequence[Site]
    suffix: Ids
    n_ids: int


def gradients_or_errors(points: Mapping[str, Point]) -> dict[str, tuple[torch.Tensor, float] | AttackError]:
    """See :func:`gradients`; of a point that spoils it for all (its chat does not fit in memory), what struck."""
    try:
        return {**gradients(points)}
    except AttackError as error:
        if len(points) == 1:
            return dict.fromkeys(points, error)
        alone = [gradients_or_errors({name: point}) for name, point in points.items()]
        return {name: outcome for one in alone for name, outcome in one.items()}


def gradients(points: Mapping[str, Point]) -> dict[str, tuple[torch.Tensor, float]]:
    """Gradient ``(s, n_ids)`` at each point, by name, and what it cost; all of a model's chats in one batch.

    The mean over chats for one model. With several models their gradients are brought to unit length by position
    before the mean, as in arXiv 2307.15043, whose code does so because models differ in scale.

    Raises:
        AttackError: memory does not suffice for one sequence.
    """
    evaluators = list(dict.fromkeys(site.evaluator for point in points.values() for site in point.sites))
    sums: dict[str, tuple[torch.Tensor, float]] = {}
    for evaluator in evaluators:
        asked = [
            (name, site.layout, point.suffix)
            for name, point in points.items()
            for site in point.sites
            if site.evaluator is evaluator
        ]
        found, flops = evaluator.gradients([(layout, suffix) for _, layout, suffix in asked])
        for name in dict.fromkeys(name for name, _, _ in asked):
            own = [g for g, (owner, _, _) in zip(found, asked, strict=True) if owner == name]
            mean = (sum(own[1:], start=own[0]) / len(own))[:, : points[name].n_ids]
            if len(evaluators) > 1:
                mean = mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-30)
            cost = flops * len(own) / len(asked)
            if name in sums:
                total, spent = sums[name]
                sums[name] = (total + mean.to(total.device), spent + cost)
            else:
                sums[name] = (mean, cost)
    return sums
