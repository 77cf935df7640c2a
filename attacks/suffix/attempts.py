"""From behaviors to attempts: searches run group by group, and progress is kept with every attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rfbench.attacks.suffix.chats import Placement
from rfbench.attacks.suffix.layout import suffix_text, write
from rfbench.attacks.suffix.models import AttackedModel, SuffixSpec
from rfbench.attacks.suffix.objectives import Objective
from rfbench.attacks.suffix.search import Search, Settings, finished
from rfbench.attacks.suffix.state import State
from rfbench.errors import AttackError
from rfbench.models.base import ChatModel
from rfbench.records import Attempt, Behavior

Optimise = Callable[[Mapping[str, Search], Mapping[str, State], Settings], Iterator[tuple[str, State | AttackError]]]
"""See :func:`rfbench.attacks.suffix.search.optimise`."""


@dataclass(frozen=True, slots=True)
class SearchJob:
    """One suffix to be found.

    Args:
        name: the key under which its progress is saved.
        behaviors: those that the suffix is optimised on.
        rng: the only source of its random draws.
        sent_to: the behaviors that the suffix is sent to, where these are others than ``behaviors`` (a transfer). Such
            a suffix must have been optimised on all of ``behaviors``: if one of them cannot be attacked, the whole
            job fails. ``None``: it is sent to those of ``behaviors`` that can be attacked.
    """

    name: str
    behaviors: Sequence[Behavior]
    rng: np.random.Generator
    sent_to: Sequence[Behavior] | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A job whose chats are laid out.

    ``receivers`` are the behaviors that get its suffix, each with its chat under the model under attack, or ``None``
    where the suffix is not optimised on that behavior.
    """

    search: Search
    receivers: Sequence[tuple[Behavior, Placement | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuffixSearch:
    """Runs search jobs, and makes an attempt per behavior of what each step found.

    Args:
        model: the model under attack.
        models: that model and its surrogates.
        spec: where the suffix stands, what it starts from and which ids it may hold.
        settings: of all searches.
        every: steps between two attempts; the last step's always is one.
        diagnostics: figures of each attempt under the model, by name.
        optimise: runs searches side by side.
        progress: by job, the state and how many attempts of that step were yielded; kept up to date.
        problems: error messages by behavior; filled in.
    """

    model: ChatModel
    models: Sequence[AttackedModel]
    spec: SuffixSpec
    settings: Settings
    every: int
    diagnostics: Mapping[str, Objective]
    optimise: Optimise
    progress: dict[str, tuple[State, int]]
    problems: dict[str, str] = field(default_factory=dict)

    def attempts(self, jobs: Sequence[SearchJob], side_by_side: int) -> Iterator[Attempt]:
        """Yield the attempts of ``jobs``, of which ``side_by_side`` are searched at a time, step by step in turn.

        Raises:
            AttackError: nothing to search, or a behavior of a transfer job cannot be attacked.
        """
        allowed = self.spec.allowed(self.models)
        for first in range(0, len(jobs), side_by_side):
            prepared: dict[str, _Prepared] = {}
            for job in jobs[first : first + side_by_side]:
                search, attackable, problems = self.spec.search(self.models, job.behaviors, allowed, job.rng)
                if problems and job.sent_to is not None:
                    raise AttackError(next(iter(problems.values())))
                self.problems.update(problems)
                if search is not None:
                    own = search.placements[:: len(self.models)]
                    prepared[job.name] = _Prepared(search, _receivers(job, attackable, own))
            yield from self._group(prepared)

    def _group(self, prepared: Mapping[str, _Prepared]) -> Iterator[Attempt]:
        """Attempts of jobs that are searched side by side."""
        begun = {name: self.progress[name] for name in prepared if name in self.progress}
        for name, (state, n) in begun.items():  # saved between two behaviors' attempts on it, maybe
            yield from self._of_step(name, prepared[name], state, n)
        states = {name: state for name, (state, _) in begun.items()}
        searches = {name: job.search for name, job in prepared.items()}
        for name, outcome in self.optimise(searches, states, self.settings):
            if isinstance(outcome, AttackError):
                ids = [behavior.behavior_id for behavior, _ in prepared[name].receivers]
                self.problems.update({each: f"behavior {each!r}: {outcome}" for each in ids})
            else:
                yield from self._of_step(name, prepared[name], outcome, 0)

    def _of_step(self, name: str, job: _Prepared, state: State, n_yielded: int) -> Iterator[Attempt]:
        """Attempts of one step, one per behavior, less the first ``n_yielded``; keeps the progress."""
        final = finished(state, self.settings)
        if final:
            state = replace(state, velocity=None)  # megabytes, of which no step makes use any more
        self.progress[name] = (state, n_yielded)
        if state.step % self.every and not final:
            return
        loss, ids = state.best
        text = suffix_text(self.model.tokenizer, job.search.placements[0].layout, ids)
        for n, (behavior, placement) in enumerate(job.receivers[n_yielded:], start=n_yielded + 1):
            self.progress[name] = (state, n)
            figures: dict[str, Any] = {} if state.n_present is None else {"n_present": state.n_present}
            if placement is not None:
                measured = placement.evaluator.measure(placement.layout, ids, self.diagnostics)
                figures |= measured | {"target_ids": list(placement.layout.target)}
            yield Attempt(
                behavior.behavior_id,
                messages=write(self.spec.template, behavior.request, text),
                suffix=text,
                attempt_idx=-(-state.step // self.every),
                step=state.step,
                final=final,
                info={
                    "loss": loss,
                    "n_queries": state.n_queries,
                    "flops": state.flops,
                    "step_loss": state.loss,
                    "suffix_ids": list(ids),
                    **figures,
                },
            )


def _receivers(
    job: SearchJob, attackable: Sequence[Behavior], placements: Sequence[Placement]
) -> list[tuple[Behavior, Placement | None]]:
    """Who gets the suffix of ``job``, given its behaviors that can be attacked and their chats."""
    if job.sent_to is not None:
        return [(behavior, None) for behavior in job.sent_to]
    return list(zip(attackable, placements, strict=True))
