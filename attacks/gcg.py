"""Suffixes found by greedy coordinate descent along the gradient of a target's loss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import PrivateAttr, model_validator

from rfbench.attacks.suffix import OWN_DRAFTS
from rfbench.attacks.suffix.fields import SearchFields
from rfbench.errors import BehaviorErrors
from rfbench.models.base import Capability, ChatModel
from rfbench.models.identity import version_of
from rfbench.records import Attempt, Behavior

if TYPE_CHECKING:
    import numpy as np

    from rfbench.attacks.suffix.attempts import Optimise, SearchJob
    from rfbench.attacks.suffix.models import SuffixSpec
    from rfbench.attacks.suffix.objectives import Objective
    from rfbench.attacks.suffix.search import Settings
    from rfbench.attacks.suffix.state import State


NANOGCG = "0.3.0"
"""The version of nanogcg that its engine was written for; another could find other suffixes."""


class GCG(SearchFields):
    """Optimise a text in the prompt until the model begins its answer with the target.

    Greedy Coordinate Gradient, "Universal and Transferable Adversarial Attacks on Aligned Language Models",
    https://arxiv.org/abs/2307.15043. Defaults are those of nanoGCG. There is one attempt per step, with the best
    text so far: the initial one at step 0, the one that counts at the last.
    """

    version: ClassVar[int] = 4
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    source: ClassVar[str] = "https://arxiv.org/abs/2307.15043"
    only_how: ClassVar[frozenset[str]] = frozenset({"side_by_side", "batch", "pack", "every"})

    _progress: dict[str, tuple[State, int]] = PrivateAttr(default_factory=dict)
    """By job: the state of its search, and how many attempts of that step were yielded."""
    _saved: dict[str, tuple[State, int]] = PrivateAttr(default_factory=dict)
    """The same, as loaded to go on from."""

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        if self.engine == "rfbench":
            return self
        if type(self) is not GCG:
            raise ValueError("engine nanogcg minimises the loss of gcg alone; leave engine out")
        for name in ("momentum", "universal", "surrogates", "ranking"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"engine nanogcg has no {name}; leave it out, or take engine rfbench")
        if len(self.initial) > 1 and len(self.initial) != self.buffer_size:
            raise ValueError(
                f"engine nanogcg wants one initial text, or buffer_size of them; set it to {len(self.initial)}"
            )
        if (there := version_of("nanogcg")) != NANOGCG:
            found = f"version {there} is another one" if there else "the package is missing"
            raise ValueError(f"engine nanogcg: {found}; pip install --no-deps nanogcg=={NANOGCG}")
        return self

    def further_models(self) -> tuple[str, ...]:
        """Surrogates, and a draft that is a model of its own."""
        own = self.ranking == "draft" and self.draft not in OWN_DRAFTS
        return (*self.surrogates, *([self.draft] if own else []))

    def craft(self, model: ChatModel, behavior: Behavior, rng: np.random.Generator) -> Iterator[Attempt]:
        """Yield the attempts of one search; see :meth:`craft_many`."""
        return self.craft_many(model, [behavior], [rng])

    def craft_many(
        self, model: ChatModel, behaviors: Sequence[Behavior], rngs: Sequence[np.random.Generator]
    ) -> Iterator[Attempt]:
        """Yield an attempt per behavior and step.

        Raises:
            AttackError: the model gives no gradients, a surrogate or draft does not fit it, nothing to search.
            BehaviorErrors: after all attempts: the error messages of single behaviors.
        """
        from rfbench.attacks.suffix.attempts import SuffixSearch
        from rfbench.attacks.suffix.models import open_models

        self._progress, self._saved = self._saved, {}
        with open_models(
            model,
            self.objective,
            surrogates=self.surrogates,
            draft=self.draft if self.ranking != "exact" else None,
            draft_target=self.draft_target,
            draft_dtype=self.draft_dtype,
            batch=self.batch,
            pack=self.pack,
        ) as models:
            search = SuffixSearch(
                model=model,
                models=models,
                spec=self._spec(),
                settings=self._settings(),
                every=self.every,
                diagnostics=self.diagnostics(model),
                optimise=self._optimiser(model),
                progress=self._progress,
            )
            yield from search.attempts(self.jobs(behaviors, rngs), self.side_by_side)
        if search.problems:
            raise BehaviorErrors(search.problems)

    def jobs(self, behaviors: Sequence[Behavior], rngs: Sequence[np.random.Generator]) -> list[SearchJob]:
        """The suffixes to be found for ``behaviors``: one each, or one for all. Subclasses may search for others."""
        from rfbench.attacks.suffix.attempts import SearchJob

        if self.universal:
            return [SearchJob("universal", behaviors, rngs[0])]
        return [SearchJob(b.behavior_id, [b], rng) for b, rng in zip(behaviors, rngs, strict=True)]

    def objective(self, model: ChatModel) -> Objective:
        """What is minimised under a model."""
        from rfbench.attacks.suffix.objectives import objective

        return objective(self.mellowmax_alpha)

    def diagnostics(self, model: ChatModel) -> dict[str, Objective]:
        """Figures of each attempt under the model, for ``info``, whatever is minimised.

        ``target_loss`` is the loss of the target alone, ``flag_pressure`` P(flag) summed over its positions (where the
        model has a flag): an attack that only suppresses the flag lowers the second and not the first.
        """
        from rfbench.attacks.suffix.objectives import flag_pressure_objective, objective

        figures = {"target_loss": objective(self.mellowmax_alpha)}
        if model.flag_id is not None:
            figures["flag_pressure"] = flag_pressure_objective(model.flag_id, "sum", 0)
        return figures

    def state(self) -> bytes:
        """Progress of all searches; see :class:`rfbench.attack.Resumable`."""
        progress = {name: [state.to_json(), n] for name, (state, n) in self._progress.items()}
        return json.dumps(progress).encode()

    def load_state(self, state: bytes) -> None:
        """Go on from ``state``; see :class:`rfbench.attack.Resumable`."""
        from rfbench.attacks.suffix.state import State

        progress = json.loads(state)
        self._saved = {name: (State.from_json(values), n) for name, (values, n) in progress.items()}

    def _optimiser(self, model: ChatModel) -> Optimise:
        if self.engine == "nanogcg":
            from rfbench.attacks.suffix.nano import optimise_by_nanogcg

            return partial(optimise_by_nanogcg, model=model, mellowmax_alpha=self.mellowmax_alpha, batch=self.batch)
        from rfbench.attacks.suffix.search import optimise

        return optimise

    def _spec(self) -> SuffixSpec:
        from rfbench.attacks.suffix.models import SuffixSpec

        return SuffixSpec(
            template=[{"role": turn.role, "content": turn.content} for turn in self.messages],
            initial=self.initial,
            space_before_target=self.space_before_target,
            filter_ids=self.filter_ids,
            non_ascii=self.non_ascii,
            admit=self.admit,
        )

    def _settings(self) -> Settings:
        from rfbench.attacks.suffix.ranking import DraftRanking, ProbeSampling, Ranking, rank_exact
        from rfbench.attacks.suffix.search import Settings

        rankings: dict[str, Ranking] = {
            "exact": rank_exact,
            "draft": DraftRanking(self.share, self.at_least),
            "probe": ProbeSampling(self.probe_divisor, self.reduction),
        }
        return Settings(
            n_steps=self.n_steps,
            width=self.width,
            topk=self.topk,
            n_replace=self.n_replace,
            buffer_size=self.buffer_size,
            momentum=self.momentum,
            early_stop=self.early_stop,
            progressive=self.progressive,
            ranking=rankings[self.ranking],
        )
