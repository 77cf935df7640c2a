"""The loop: gradient, candidates, ranking, the next suffix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rfbench.errors import AttackError
from rfbench.gcg.candidates import distinct, draw, top_ids
from rfbench.gcg.evaluator import Evaluator
from rfbench.gcg.layout import Ids, Layout, RoundTrip
from rfbench.gcg.ranking import Ranking
from rfbench.gcg.scores import Scorer, Scores
from rfbench.gcg.state import Entry, State

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Site:
    """One chat under one model that a suffix has to work in."""

    evaluator: Evaluator
    layout: Layout
    round_trip: RoundTrip | None
    """``None``: ids that do not survive re-tokenisation are let through."""
    draft: Scorer | None = None


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
    progressive: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """One suffix to be found, for all of ``sites`` at once, with its own random generator.

    Args:
        sites: chats and models, behavior by behavior; the loss is the mean over them.
        initial: suffixes to start from, ``(s,)`` each and of one length.
        allowed: the search space, ``(v,)``, on the device of the gradients; of several models whose embeddings
            have unequal numbers of rows, the smallest.
        rng: advanced by every step.
        n_models: sites of each behavior.
    """

    sites: Sequence[Site]
    initial: Sequence[Ids]
    allowed: torch.Tensor
    rng: np.random.Generator
    n_models: int = 1

    def among(self, n_present: int | None) -> Search:
        """The same search in the chats of its first behaviors alone; ``None`` is all of them."""
        return self if n_present is None else replace(self, sites=self.sites[: n_present * self.n_models])

    def start(self, settings: Settings) -> State:
        """Evaluate the initial suffixes: the state before the first step.

        Raises:
            AttackError: a loss is not finite.
        """
        n_present = 1 if settings.progressive else None
        part = self.among(n_present)
        complete = len(part.sites) == len(self.sites)
        candidates = np.array(self.initial, dtype=np.int64)
        scores = _finite(part.score(candidates, candidates[0]), 0)
        matched = settings.early_stop and complete and bool(scores.matched.any())
        best = _lowest(scores, among_matches=matched)
        entries = [(float(loss), ids) for loss, ids in zip(scores.losses, self.initial, strict=True)]
        return State(
            step=0,
            buffer=tuple(sorted(entries)[: max(1, settings.buffer_size)]),
            best=entries[best],
            loss=entries[best][0],
            matched=matched,
            n_queries=len(candidates) * len(part.sites),
            flops=scores.flops + _prefix_flops(part.sites),
            rng=self.rng.bit_generator.state,
            n_present=n_present,
        )

    def score(self, candidates: IntArray, current: IntArray, *, by_draft: bool = False) -> Scores:
        """Mean loss of candidates ``(c, s)`` over all sites; matched where all of them are."""
        parts = []
        for site in self.sites:
            evaluator: Scorer | None = site.draft if by_draft else site.evaluator
            assert evaluator is not None
            parts.append(evaluator.score(site.layout, candidates, current))
        return Scores(
            np.mean([part.losses for part in parts], axis=0),
            np.all([part.matched for part in parts], axis=0),
            sum(part.flops for part in parts),
        )

    def advance(self, state: State, gradient: torch.Tensor, gradient_flops: float, settings: Settings) -> State:
        """One step from ``state``, along a gradient ``(s, v)`` taken at the best suffix of its buffer.

        In a progressive search the next behavior joins once the step's suffix makes the models say the targets of all
        that are present (arXiv 2307.15043, algorithm 2).

        Raises:
            AttackError: no candidate survives re-tokenisation, or something is not finite.
        """
        part = self.among(state.n_present)
        complete = len(part.sites) == len(self.sites)
        current = np.array(state.buffer[0][1], dtype=np.int64)
        velocity = None
        if settings.momentum:
            import torch

            if state.velocity is not None:
                before = torch.from_numpy(state.velocity).to(gradient.device)
                gradient = gradient + settings.momentum * before
            velocity = gradient.cpu().numpy()
        candidates = part.propose(current, gradient, settings)
        ranked = settings.ranking(
            candidates,
            lambda ids: _finite(part.score(ids, current), state.step + 1),
            lambda ids: _some_finite(part.score(ids, current, by_draft=True), state.step + 1),
            self.rng,
        )
        scores = ranked.scores
        matched = settings.early_stop and complete and bool(scores.matched.any())
        chosen = _lowest(scores, among_matches=matched)
        entry = (float(scores.losses[chosen]), tuple(candidates[ranked.indices[chosen]].tolist()))
        after = State(
            step=state.step + 1,
            buffer=_push(state.buffer, entry, settings.buffer_size),
            best=entry if matched else min(state.best, entry, key=lambda e: e[0]),
            loss=entry[0],
            matched=matched,
            n_queries=state.n_queries + (1 + ranked.n_queries) * len(part.sites),
            flops=state.flops + gradient_flops + ranked.flops,
            rng=self.rng.bit_generator.state,
            n_present=state.n_present,
            velocity=velocity,
        )
        return after if complete or not scores.matched[chosen] else self._join(after)

    def _join(self, state: State) -> State:
        """``state`` with one behavior more: from here on, losses are those with it."""
        assert state.n_present is not None
        part = self.among(state.n_present + 1)
        kept = [ids for _, ids in state.buffer]
        candidates = np.array(kept, dtype=np.int64)
        scores = _finite(part.score(candidates, candidates[0]), state.step)
        buffer = tuple(sorted(zip(scores.losses.tolist(), kept, strict=True)))
        return replace(
            state,
            buffer=buffer,
            best=buffer[0],
            loss=buffer[0][0],
            n_queries=state.n_queries + len(kept) * len(part.sites),
            flops=state.flops + scores.flops + _prefix_flops(part.sites[-self.n_models :]),
            n_present=state.n_present + 1,
        )

    def propose(self, current: IntArray, gradient: torch.Tensor, settings: Settings) -> IntArray:
        """Candidates ``(c, s)`` with ``c`` up to ``width``: those drawn, each once, that survive in every chat.

        Raises:
            AttackError: none does, or the gradient is not finite.
        """
        top = top_ids(gradient, self.allowed, settings.topk)
        candidates = distinct(draw(current, top, settings.width, settings.n_replace, self.rng))
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
        gradients = _gradients_or_errors({name: (searches[name].among(s.n_present), s) for name, s in active.items()})
        for name in list(active):
            gradient = gradients[name]
            try:
                if isinstance(gradient, AttackError):
                    raise gradient
                active[name] = searches[name].advance(active[name], *gradient, settings)
            except AttackError as error:
                del active[name]
                yield name, error
            else:
                yield name, active[name]


def finished(state: State, settings: Settings) -> bool:
    """Whether no step is to follow."""
    return state.matched or state.step >= settings.n_steps


def _gradients_or_errors(
    work: Mapping[str, tuple[Search, State]],
) -> dict[str, tuple[torch.Tensor, float] | AttackError]:
    """See :func:`_gradients`; of a search that spoils it for all (its chat does not fit in memory), what struck."""
    try:
        return {**_gradients(work)}
    except AttackError as error:
        if len(work) == 1:
            return dict.fromkeys(work, error)
        alone = [_gradients_or_errors({name: both}) for name, both in work.items()]
        return {name: outcome for one in alone for name, outcome in one.items()}


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


def _prefix_flops(sites: Sequence[Site]) -> float:
    return sum(site.evaluator.prefix_flops(site.layout) for site in sites)


def _lowest(scores: Scores, *, among_matches: bool) -> int:
    losses = np.where(scores.matched, scores.losses, np.inf) if among_matches else scores.losses
    return int(losses.argmin())


def _some_finite(scores: Scores, step: int) -> Scores:
    if not np.isfinite(scores.losses).any():
        raise AttackError(f"no loss of the draft is finite at step {step} (too small a dtype?); choose another draft")
    return scores


def _finite(scores: Scores, step: int) -> Scores:
    if not np.isfinite(scores.losses).all():
        raise AttackError(f"the loss is not finite at step {step} (too small a dtype, broken weights?)")
    return scores
