"""The loop: gradient, candidates, ranking, the next suffix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rfbench.attacks.suffix.candidates import Scorer, Scores, distinct, draw, top_ids
from rfbench.attacks.suffix.chats import PlacedSuffix, Placement, gradients_or_errors
from rfbench.attacks.suffix.layout import Ids
from rfbench.attacks.suffix.ranking import Evaluate, Ranking
from rfbench.attacks.suffix.state import Entry, State
from rfbench.errors import AttackError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    IntArray = npt.NDArray[np.int64]


RANDOM_TRIES = 16
"""Rounds, and draws per round and suffix wanted, in which random suffixes are looked for."""


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
    """One suffix to be found, for all of ``placements`` at once, with its own random generator.

    Args:
        placements: chats and models, behavior by behavior; the loss is the mean over them.
        initial: suffixes to start from, ``(s,)`` each and of one length.
        allowed: the search space, ``(v,)``, on the device of the gradients; of several models whose embeddings
            have unequal numbers of rows, the smallest.
        rng: advanced by every step.
        n_models: placements of each behavior.
    """

    placements: Sequence[Placement]
    initial: Sequence[Ids]
    allowed: torch.Tensor
    rng: np.random.Generator
    n_models: int = 1

    def among(self, n_present: int | None) -> Search:
        """The same search in the chats of its first behaviors alone; ``None`` is all of them."""
        return self if n_present is None else replace(self, placements=self.placements[: n_present * self.n_models])

    def current(self, state: State) -> PlacedSuffix:
        """Where the next gradient is taken: at the best suffix of the buffer, in the chats that are present."""
        return PlacedSuffix(self.among(state.n_present).placements, state.buffer[0][1], len(self.allowed))

    def start(self, settings: Settings) -> State:
        """Evaluate the initial suffixes, and random ones where the buffer holds more: the state before the first step.

        Raises:
            AttackError: a loss is not finite.
        """
        n_present = 1 if settings.progressive else None
        part = self.among(n_present)
        complete = len(part.placements) == len(self.placements)
        initial = [*self.initial, *self.fillers(settings.buffer_size - len(self.initial))]
        candidates = np.array(initial, dtype=np.int64)
        scores = _finite(part.score(candidates, candidates[0]), 0)
        matched = settings.early_stop and complete and bool(scores.matched.any())
        best = _lowest(scores, among_matches=matched)
        entries = [(float(loss), ids) for loss, ids in zip(scores.losses, initial, strict=True)]
        return State(
            step=0,
            buffer=tuple(sorted(entries)[: max(1, settings.buffer_size)]),
            best=entries[best],
            loss=entries[best][0],
            matched=matched,
            n_queries=len(candidates) * len(part.placements),
            flops=scores.flops + _prefix_flops(part.placements),
            rng=self.rng.bit_generator.state,
            n_present=n_present,
        )

    def fillers(self, n: int) -> list[Ids]:
        """Up to ``n`` suffixes of random ids that survive in every chat; few of the length of a suffix do."""
        ids = np.flatnonzero(self.allowed.cpu().numpy())
        found: list[Ids] = []
        for _ in range(RANDOM_TRIES):
            if len(found) >= n:
                break
            rows = self._survivors(self.rng.choice(ids, size=(RANDOM_TRIES * n, len(self.initial[0]))))
            found += map(tuple, rows.tolist())
        return found[: max(n, 0)]

    def _survivors(self, candidates: IntArray) -> IntArray:
        for placement in self.placements:
            if placement.round_trip is not None and len(candidates):
                candidates = candidates[placement.round_trip.survivors(candidates)]
        return candidates

    def score(self, candidates: IntArray, current: IntArray, *, by_draft: bool = False) -> Scores:
        """Mean loss of candidates ``(c, s)`` over all placements; matched where all of them are."""
        parts = []
        for placement in self.placements:
            evaluator: Scorer | None = placement.draft if by_draft else placement.evaluator
            assert evaluator is not None
            parts.append(evaluator.score(placement.layout, candidates, current))
        return Scores(
            np.mean([part.losses for part in parts], axis=0),
            np.all([part.matched for part in parts], axis=0),
            sum(part.flops for part in parts),
        )

    def drafted(self, current: IntArray, step: int) -> Evaluate | None:
        """Approximate scores of variations of ``current`` ``(s,)``; ``None`` unless every placement has a draft."""
        if any(placement.draft is None for placement in self.placements):
            return None
        return lambda ids: _some_finite(self.score(ids, current, by_draft=True), step)

    def advance(self, state: State, gradient: torch.Tensor, gradient_flops: float, settings: Settings) -> State:
        """One step from ``state``, along a gradient ``(s, v)`` taken at the best suffix of its buffer.

        In a progressive search the next behavior joins once the step's suffix makes the models say the targets of all
        that are present (arXiv 2307.15043, algorithm 2).

        Raises:
            AttackError: no candidate survives re-tokenisation, or something is not finite.
        """
        part = self.among(state.n_present)
        complete = len(part.placements) == len(self.placements)
        current = np.array(state.buffer[0][1], dtype=np.int64)
        velocity = None
        if settings.momentum:
            import torch

            if state.velocity is not None:
                before = torch.from_numpy(state.velocity).to(gradient.device)
                gradient = gradient + settings.momentum * before
            velocity = gradient.cpu().numpy()
        # Of a progressive search, too, those that survive in every chat: the others are sent the suffix as well.
        candidates = self.propose(current, gradient, settings)
        ranked = settings.ranking(
            candidates,
            lambda ids: _finite(part.score(ids, current), state.step + 1),
            part.drafted(current, state.step + 1),
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
            n_queries=state.n_queries + (1 + ranked.n_queries) * len(part.placements),
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
            n_queries=state.n_queries + len(kept) * len(part.placements),
            flops=state.flops + scores.flops + _prefix_flops(part.placements[-self.n_models :]),
            n_present=state.n_present + 1,
        )

    def propose(self, current: IntArray, gradient: torch.Tensor, settings: Settings) -> IntArray:
        """Candidates ``(c, s)`` with ``c`` up to ``width``: those drawn, each once, that survive in every chat.

        Raises:
            AttackError: none does, or the gradient is not finite.
        """
        top = top_ids(gradient, self.allowed, settings.topk)
        candidates = self._survivors(distinct(draw(current, top, settings.width, settings.n_replace, self.rng)))
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
        The name of a search and its next state, from the initial one on where it had none; or the error that ended it.
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
        gradients = gradients_or_errors({name: searches[name].current(state) for name, state in active.items()})
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
    """Whether the search has ended."""
    return state.matched or state.step >= settings.n_steps


def _push(buffer: tuple[Entry, ...], entry: Entry, size: int) -> tuple[Entry, ...]:
    """The buffer with an entry more, its worst one dropped when it is full; of size 0, the entry alone."""
    if size == 0:
        return (entry,)
    return tuple(sorted((*buffer, entry), key=lambda e: e[0])[:size])


def _prefix_flops(placements: Sequence[Placement]) -> float:
    return sum(placement.evaluator.prefix_flops(placement.layout) for placement in placements)


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
