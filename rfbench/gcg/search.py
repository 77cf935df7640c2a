"""The loop: gradient, candidates, ranking, the next suffix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rfbench.errors import AttackError
from rfbench.gcg.arrays import pack, unpack
from rfbench.gcg.candidates import draw, top_ids
from rfbench.gcg.evaluator import Evaluator, Scores
from rfbench.gcg.layout import Ids, Layout, RoundTrip
from rfbench.gcg.ranking import Ranking

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    IntArray = npt.NDArray[np.int64]

Entry = tuple[float, Ids]
"""A loss, and the suffix that has it."""


@dataclass(frozen=True, slots=True)
class Site:
    """One chat under one model that a suffix has to work in."""

    evaluator: Evaluator
    layout: Layout
    round_trip: RoundTrip | None
    """``None``: ids that do not survive re-tokenisation are let through."""
    draft: Evaluator | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the loop; the fields of the ``gcg`` attack say what they mean."""

    n_steps: int
    width: int
    topk: int
    n_replace: int
    buffer_size: int
    momentum: float
    early_stop: bool
    ranking: Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A search after ``step`` steps: all that the steps to come depend on.

    ``buffer`` holds the suffixes that compete to be the next step's start, best first; ``best`` is the best of all
    steps, ``loss`` the lowest loss of this step. ``matched`` says that the search ended early because the model
    would now greedily say the target.
    """

    step: int
    buffer: tuple[Entry, ...]
    best: Entry
    loss: float
    matched: bool
    n_queries: int
    flops: float
    rng: Mapping[str, Any]
    velocity: npt.NDArray[np.float32] | None = None
    """Momentum: the decaying sum of gradients, ``(s, v)``."""

    def to_json(self) -> dict[str, Any]:
        """As values that JSON can hold, exactly."""
        velocity = None if self.velocity is None else pack(self.velocity)
        return asdict(replace(self, velocity=None)) | {"velocity": velocity}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> State:
        """The inverse of :meth:`to_json`."""
        return cls(
            **{
                **values,
                "buffer": tuple(_entry(entry) for entry in values["buffer"]),
                "best": _entry(values["best"]),
                "velocity": None if values["velocity"] is None else unpack(values["velocity"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Search:
    """One suffix to be found, for all of ``sites`` at once, with its own random generator.

    Args:
        sites: chats and models; the loss is the mean over them.
        initial: suffixes to start from, ``(s,)`` each and of one length.
        allowed: the search space, ``(v,)``, on the device of the gradients; of several models whose embeddings
            have unequal numbers of rows, the smallest.
        rng: advanced by every step.
    """

    sites: Sequence[Site]
    initial: Sequence[Ids]
    allowed: torch.Tensor
    rng: np.random.Generator

    def start(self, settings: Settings) -> State:
        """Evaluate the initial suffixes: the state before the first step.

        Raises:
            AttackError: a loss is not finite.
        """
        candidates = np.array(self.initial, dtype=np.int64)
        scores = _finite(self.score(candidates, candidates[0]), 0)
        best = int(scores.losses.argmin())
        entries = [(float(loss), ids) for loss, ids in zip(scores.losses, self.initial, strict=True)]
        return State(
            step=0,
            buffer=tuple(sorted(entries)[: max(1, settings.buffer_size)]),
            best=entries[best],
            loss=entries[best][0],
            matched=settings.early_stop and bool(scores.matched[best]),
            n_queries=len(candidates) * len(self.sites),
            flops=scores.flops + sum(site.evaluator.prefix_flops(site.layout) for site in self.sites),
            rng=self.rng.bit_generator.state,
        )

    def score(self, candidates: IntArray, current: IntArray, *, by_draft: bool = False) -> Scores:
        """Mean loss of candidates ``(c, s)`` over all sites; matched where all of them are."""
        parts = []
        for site in self.sites:
            evaluator = site.draft if by_draft else site.evaluator
            assert evaluator is not None
            parts.append(evaluator.score(site.layout, candidates, current))
        return Scores(
            np.mean([part.losses for part in parts], axis=0),
            np.all([part.matched for part in parts], axis=0),
            sum(part.flops for part in parts),
        )

    def advance(self, state: State, gradient: torch.Tensor, gradient_flops: float, settings: Settings) -> State:
        """One step from ``state``, along a gradient ``(s, v)`` taken at the best suffix of its buffer.

        Raises:
            AttackError: no candidate survives re-tokenisation, or something is not finite.
        """
        current = np.array(state.buffer[0][1], dtype=np.int64)
        velocity = None
        if settings.momentum:
            import torch

            if state.velocity is not None:
                before = torch.from_numpy(state.velocity).to(gradient.device)
                gradient = gradient + settings.momentum * before
            velocity = gradient.cpu().numpy()
        candidates = self.propose(current, gradient, settings)
        ranked = settings.ranking(
            candidates,
            lambda ids: self.score(ids, current),
            lambda ids: self.score(ids, current, by_draft=True),
            self.rng,
        )
        scores = _finite(ranked.scores, state.step + 1)
        matched = settings.early_stop and bool(scores.matched.any())
        losses = np.where(scores.matched, scores.losses, np.inf) if matched else scores.losses
        chosen = int(losses.argmin())
        entry = (float(scores.losses[chosen]), tuple(candidates[ranked.indices[chosen]].tolist()))
        return State(
            step=state.step + 1,
            buffer=_push(state.buffer, entry, settings.buffer_size),
            best=entry if matched else min(state.best, entry, key=lambda e: e[0]),
            loss=entry[0],
            matched=matched,
            n_queries=state.n_queries + (1 + ranked.n_queries) * len(self.sites),
            flops=state.flops + gradient_flops + ranked.flops,
            rng=self.rng.bit_generator.state,
            velocity=velocity,
        )

    def propose(self, current: IntArray, gradient: torch.Tensor, settings: Settings) -> IntArray:
        """Candidates ``(c, s)`` with ``c`` up to ``width``: those drawn that survive in every chat.

        Raises:
            AttackError: none does, or the gradient is not finite.
        """
        top = top_ids(gradient, self.allowed, settings.topk)
        candidates = draw(current, top, settings.width, settings.n_replace, self.rng)
        for site in self.sites:
            if site.round_trip is not None and len(candidates):
                candidates = candidates[site.round_trip.survivors(candidates)]
        if not len(candidates):
            raise AttackError(
                f"none of {settings.width} candidates survives decoding and re-encoding inside the chat; choose "
                "other initial suffixes, raise width, or set filter_ids to false"
            )
        return candidates


def optimise(
    searches: Mapping[str, Search], states: Mapping[str, State], settings: Settings
) -> Iterator[tuple[str, State | AttackError]]:
    """Run searches side by side: gradients of all of them in one batch, then a step of each.

    Args:
        searches: by name.
        states: of the searches that have begun already.
        settings: of all of them.

    Yields:
        The name of a search and its next state, from the initial one on where it had none; or what ended it.
    """
    active = dict(states)
    for name, search in searches.items():
        if name in active:
            search.rng.bit_generator.state = active[name].rng
            continue
        try:
            active[name] = search.start(settings)
        except AttackError as error:
            yield name, error
        else:
            yield name, active[name]
    while active := {name: s for name, s in active.items() if not finished(s, settings)}:
        gradients = _gradients({name: (searches[name], state) for name, state in active.items()})
        for name in list(active):
            try:
                active[name] = searches[name].advance(active[name], *gradients[name], settings)
            except AttackError as error:
                del active[name]
                yield name, error
            else:
                yield name, active[name]


def finished(state: State, settings: Settings) -> bool:
    """Whether no step is to follow."""
    return state.matched or state.step >= settings.n_steps


def _gradients(work: Mapping[str, tuple[Search, State]]) -> dict[str, tuple[torch.Tensor, float]]:
    """Gradient ``(s, v)`` of each search at the best suffix of its buffer, and what it cost.

    The mean over chats for one model. With several models their gradients are brought to unit length by position
    before the mean, as in arXiv 2307.15043, whose code does so because models differ in scale.
    """
    evaluators = list(dict.fromkeys(site.evaluator for search, _ in work.values() for site in search.sites))
    sums: dict[str, tuple[torch.Tensor, float]] = {}
    for evaluator in evaluators:
        asked = [
            (name, site.layout, state.buffer[0][1])
            for name, (search, state) in work.items()
            for site in search.sites
            if site.evaluator is evaluator
        ]
        gradients, flops = evaluator.gradients([(layout, suffix) for _, layout, suffix in asked])
        for name in dict.fromkeys(name for name, _, _ in asked):
            own = [g for g, (owner, _, _) in zip(gradients, asked, strict=True) if owner == name]
            mean = (sum(own[1:], start=own[0]) / len(own))[:, : len(work[name][0].allowed)]
            if len(evaluators) > 1:
                mean = mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-30)
            cost = flops * len(own) / len(asked)
            if name in sums:
                total, spent = sums[name]
                sums[name] = (total + mean.to(total.device), spent + cost)
            else:
                sums[name] = (mean, cost)
    return sums


def _push(buffer: tuple[Entry, ...], entry: Entry, size: int) -> tuple[Entry, ...]:
    """The buffer with an entry more, its worst one dropped when it is full; of size 0, the entry alone."""
    if size == 0:
        return (entry,)
    return tuple(sorted((*buffer, entry), key=lambda e: e[0])[:size])


def _finite(scores: Scores, step: int) -> Scores:
    if not np.isfinite(scores.losses).all():
        raise AttackError(f"the loss is not finite at step {step} (too small a dtype, broken weights?)")
    return scores


def _entry(values: Sequence[Any]) -> Entry:
    loss, ids = values
    return float(loss), tuple(ids)
