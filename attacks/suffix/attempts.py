"""From behaviors to attempts: searches run group by group, and how far each has come is remembered at every attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rfbench.attacks.suffix.chats import Site
from rfbench.attacks.suffix.layout import suffix_text, write
from rfbench.attacks.suffix.models import Aim, Victim
from rfbench.attacks.suffix.objectives import Objective
from rfbench.attacks.suffix.search import Search, Settings, finished
from rfbench.attacks.suffix.state import State
from rfbench.errors import AttackError
from rfbench.models.base import ChatModel
from rfbench.records import Attempt, Behavior

Quest = tuple[str, Sequence[Behavior], np.random.Generator]
"""A suffix to be found: the name that its progress is kept under, the behaviors it is searched on, what draws it."""

Recipient = tuple[Behavior, Site | None]
"""A behavior that gets a suffix, and its chat under the model itself where the suffix is searched in it."""

Optimise = Callable[[Mapping[str, Search], Mapping[str, State], Settings], Iterator[tuple[str, State | AttackError]]]
"""See :func:`rfbench.attacks.suffix.search.optimise`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What one call of ``craft_many`` does.

    Args:
        model: the model under attack.
        victims: that model and its surrogates.
        aim: what is sought in which chats.
        settings: of all searches.
        every: steps between two attempts; the last step's always is one.
        readings: figures of each attempt under the model.
        optimise: runs searches side by side.
        recipients: who gets a suffix, given the behaviors that it is searched on and their chats.
        all_or_none: what strikes on one behavior of a quest ends all: a suffix learned from fewer would be another one.
        progress: by quest, the state and how many attempts of that step were yielded; kept up to date.
        problems: by behavior, what struck; filled in.
    """

    model: ChatModel
    victims: Sequence[Victim]
    aim: Aim
    settings: Settings
    every: int
    readings: Mapping[str, Objective]
    optimise: Optimise
    recipients: Callable[[Sequence[Behavior], Sequence[Site]], Sequence[Recipient]]
    progress: dict[str, tuple[State, int]]
    all_or_none: bool = False
    problems: dict[str, str] = field(default_factory=dict)

    def attempts(self, groups: Sequence[Sequence[Quest]]) -> Iterator[Attempt]:
        """Yield the attempts of one group of quests after the other; those of a group are searched side by side.

        Raises:
            AttackError: nothing to search, or something struck and it is all or none.
        """
        allowed = self.aim.allowed(self.victims)
        for group in groups:
            searches: dict[str, Search] = {}
            members: dict[str, Sequence[Recipient]] = {}
            for name, wanted, rng in group:
                search, sound, struck = self.aim.search(self.victims, wanted, allowed, rng)
                if struck and self.all_or_none:
                    raise AttackError(next(iter(struck.values())))
                self.problems.update(struck)
                if search is not None:
                    searches[name] = search
                    members[name] = self.recipients(sound, search.sites[:: len(self.victims)])
            begun = {name: self.progress[name] for name in searches if name in self.progress}
            for name, (state, n) in begun.items():  # saved between two behaviors' attempts on it, maybe
                yield from self._of_step(name, searches[name], members[name], state, n)
            states = {name: state for name, (state, _) in begun.items()}
            for name, outcome in self.optimise(searches, states, self.settings):
                if isinstance(outcome, AttackError):
                    ids = [behavior.behavior_id for behavior, _ in members[name]]
                    self.problems.update({each: f"behavior {each!r}: {outcome}" for each in ids})
                else:
                    yield from self._of_step(name, searches[name], members[name], outcome, 0)

    def _of_step(
        self, name: str, search: Search, members: Sequence[Recipient], state: State, n_yielded: int
    ) -> Iterator[Attempt]:
        """Attempts of one step, one per behavior, less the first ``n_yielded``; remembers how far it has come."""
        final = finished(state, self.settings)
        if final:
            state = replace(state, velocity=None)  # megabytes, of which no step makes use any more
        self.progress[name] = (state, n_yielded)
        if state.step % self.every and not final:
            return
        loss, ids = state.best
        text = suffix_text(self.model.tokenizer, search.sites[0].layout, ids)
        for n, (behavior, site) in enumerate(members[n_yielded:], start=n_yielded + 1):
            self.progress[name] = (state, n)
            figures: dict[str, Any] = {} if state.n_present is None else {"n_present": state.n_present}
            if site is not None:
                read = site.evaluator.read(site.layout, ids, self.readings)
                figures |= read | {"target_ids": list(site.layout.target)}
            yield Attempt(
                behavior.behavior_id,
                messages=write(self.aim.template, behavior.request, text),
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
