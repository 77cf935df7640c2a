"""Suffixes found by greedy coordinate descent along the gradient of a target's loss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from rfbench.attack import PromptAttack
from rfbench.attacks.suffix import OWN_DRAFTS
from rfbench.errors import BehaviorErrors
from rfbench.models.base import Capability, ChatModel
from rfbench.models.identity import version_of
from rfbench.records import Attempt, Behavior

if TYPE_CHECKING:
    import numpy as np

    from rfbench.attacks.suffix.attempts import Optimise, Quest, Recipient
    from rfbench.attacks.suffix.chats import Site
    from rfbench.attacks.suffix.models import Aim
    from rfbench.attacks.suffix.objectives import Objective
    from rfbench.attacks.suffix.search import Settings
    from rfbench.attacks.suffix.state import State


NANOGCG = "0.3.0"
"""The version of nanogcg that its engine was written for; another could find other suffixes."""


class Turn(BaseModel):
    """One message, with slots for the request and for the optimised text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class GCG(PromptAttack):
    """Optimise a text in the prompt until the model begins its answer with the target.

    Greedy Coordinate Gradient, "Universal and Transferable Adversarial Attacks on Aligned Language Models",
    https://arxiv.org/abs/2307.15043. Defaults are those of nanoGCG. There is one attempt per step, with the best
    text so far: the initial one at step 0, the one that counts at the last.
    """

    version: ClassVar[int] = 4
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    source: ClassVar[str] = "https://arxiv.org/abs/2307.15043"
    only_how: ClassVar[frozenset[str]] = frozenset({"side_by_side", "batch", "pack", "every"})

    n_steps: int = Field(default=250, ge=1, description="optimiser steps (nanoGCG: 250; arXiv 2307.15043: 500)")
    width: int = Field(default=512, ge=1, description="candidates drawn per step (arXiv 2307.15043)")
    topk: int = Field(default=256, ge=1, description="replacements per position to draw from (arXiv 2307.15043)")
    n_replace: int = Field(default=1, ge=1, description="positions replaced in each candidate (nanoGCG)")
    messages: tuple[Turn, ...] = Field(
        default=(Turn(role="user", content="{request}{optim_str}"),),
        min_length=1,
        description="the conversation, the last message a user's; {request} stands for the behavior's request, "
        "{optim_str}, exactly once and in any message, for the optimised text",
    )
    initial: tuple[str, ...] = Field(
        default=(" x" * 20,),
        min_length=1,
        description="texts to start from, white space included, of equal numbers of tokens; the best one counts where "
        "the buffer holds fewer (nanoGCG)",
    )
    buffer_size: int = Field(
        default=0,
        ge=0,
        description="best suffixes kept, the best of which starts the next step, random ones to begin with where "
        "initial has fewer; 0 goes on from each step's best candidate, be it better or worse (nanoGCG)",
    )
    mellowmax_alpha: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="minimise the mellowmax of the target's negated logits at this temperature in place of "
        "cross-entropy (nanoGCG); losses are then no nats",
    )
    momentum: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the last step's direction added to the gradient (arXiv 2405.01229)",
    )
    early_stop: bool = Field(
        default=False,
        description="end once greedy decoding would give the target, with the suffix that does so (nanoGCG; its "
        "engine ends then, too, but with the suffix of the lowest loss)",
    )
    filter_ids: bool = Field(
        default=True,
        description="drop candidates whose text encodes to other ids inside the whole chat; without it losses and "
        "answers may belong to different ids",
    )
    non_ascii: bool = Field(default=False, description="search also ids that are not printable ASCII (nanoGCG)")
    admit: tuple[str, ...] = Field(
        default=(),
        description="special tokens, by name, that may be searched; they survive filter_ids only on a model with "
        "special_tokens: raw",
    )
    space_before_target: bool = Field(
        default=False, description="put a space before the target, for tokenizers that want one (nanoGCG)"
    )
    universal: bool = Field(
        default=False,
        description="one suffix for all behaviors of a unit (arXiv 2307.15043, algorithm 2); n_queries and flops are "
        "then those of the whole search",
    )
    progressive: bool = Field(
        default=False,
        description="with universal: begin with the first behavior and add the next once the step's suffix makes the "
        "models greedily say the targets of all present ones, as algorithm 2 does; else all are there from the start. "
        "Losses are those on the behaviors present (n_present), so they rise when one joins",
    )
    surrogates: tuple[str, ...] = Field(
        default=(),
        description="further models whose losses and gradients count too, with the same tokenizer; folders count from "
        "the working directory",
    )
    side_by_side: int = Field(
        default=1,
        ge=1,
        description="behaviors whose gradients are computed in one batch, their steps alternating (rfbench)",
    )
    engine: Literal["rfbench", "nanogcg"] = Field(
        default="rfbench",
        description="whose optimiser runs: ours, or that of the package nanogcg 0.3.0, one behavior after the other",
    )
    batch: int | None = Field(
        default=None,
        ge=1,
        description="sequences evaluated at a time, halved while memory runs out; unset: 8 on CPUs (of the draft "
        "glimpse 64), 512 elsewhere",
    )
    pack: bool = Field(
        default=True,
        description="on CPUs, compute with weights that are laid out for matrix products beforehand: faster, and takes "
        "the memory of the linear layers twice more, once for gradients (rfbench)",
    )
    ranking: Literal["exact", "draft", "probe"] = Field(
        default="exact",
        description="exact: evaluate every candidate; draft: those that the draft ranks best; probe: probe sampling "
        "(arXiv 2403.01251)",
    )
    draft: str = Field(
        default="glimpse",
        min_length=1,
        description="glimpse: the model itself, of what a change does at once to the target tokens that matter most; "
        "int8: a copy of it with 8-bit matrix products (CPUs); or a model, by name, with the same tokenizer; of no "
        "effect with exact ranking (rfbench)",
    )
    draft_target: int | None = Field(
        default=4,
        ge=1,
        description="target tokens that the draft glimpse looks at: those whose logits the loss depends on most, "
        "roughly the least likely ones; null: all of them (rfbench)",
    )
    draft_dtype: Literal["float32", "bfloat16"] | None = Field(
        default=None,
        description="what the draft glimpse computes in, from a copy of the weights; unset: the model's own dtype. "
        "bfloat16 pays where the processor multiplies it (AVX-512 BF16, AMX, GPUs) and is slower elsewhere (rfbench)",
    )
    share: float = Field(
        default=0.0625, gt=0, le=1, description="share of candidates evaluated exactly with ranking draft (rfbench)"
    )
    at_least: int = Field(
        default=16,
        ge=1,
        description="candidates evaluated exactly with ranking draft, where the share comes to fewer (rfbench)",
    )
    probe_divisor: int = Field(
        default=16, ge=1, description="width over the size of the probe set, with ranking probe (arXiv 2403.01251)"
    )
    reduction: int = Field(
        default=8, ge=1, description="filtered-set reduction R, with ranking probe (arXiv 2403.01251)"
    )
    every: int = Field(
        default=1,
        ge=1,
        description="steps between two attempts, each of which the model under attack answers; the last step's always "
        "is (rfbench)",
    )

    _progress: dict[str, tuple[State, int]] = PrivateAttr(default_factory=dict)
    """By search: its state, and how many attempts of that step were yielded."""
    _saved: dict[str, tuple[State, int]] = PrivateAttr(default_factory=dict)
    """The same, of a search that is to go on: what progress was loaded."""

    @model_validator(mode="after")
    def _one_slot(self) -> Self:
        if (n := sum(turn.content.count("{optim_str}") for turn in self.messages)) != 1:
            raise ValueError(f"messages hold {{optim_str}} {n} times; write it exactly once")
        if self.messages[-1].role != "user":
            raise ValueError("the last of messages must be a user's; the model answers it")
        if not all(text.strip() for text in self.initial):
            raise ValueError("initial holds an empty text; every one must have tokens")
        return self

    @model_validator(mode="after")
    def _progressive_is_universal(self) -> Self:
        if self.progressive and not self.universal:
            raise ValueError("progressive adds behaviors to a universal search; set universal, or leave it out")
        return self

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
            BehaviorErrors: after all attempts: what struck on single behaviors.
        """
        from rfbench.attacks.suffix.attempts import Campaign
        from rfbench.attacks.suffix.models import open_victims

        self._progress, self._saved = self._saved, {}
        with open_victims(
            model,
            self.objective,
            surrogates=self.surrogates,
            draft=self.draft if self.ranking != "exact" else None,
            draft_target=self.draft_target,
            draft_dtype=self.draft_dtype,
            batch=self.batch,
            pack=self.pack,
        ) as victims:
            campaign = Campaign(
                model=model,
                victims=victims,
                aim=self._aim(),
                settings=self._settings(),
                every=self.every,
                readings=self.readings(model),
                optimise=self._optimiser(model),
                recipients=lambda sound, sites: self._recipients(behaviors, sound, sites),
                progress=self._progress,
                all_or_none=self._all_or_none(),
            )
            yield from campaign.attempts(self._groups(behaviors, rngs))
        if campaign.problems:
            raise BehaviorErrors(campaign.problems)

    def objective(self, model: ChatModel) -> Objective:
        """What is minimised under a model."""
        from rfbench.attacks.suffix.objectives import objective

        return objective(self.mellowmax_alpha)

    def readings(self, model: ChatModel) -> dict[str, Objective]:
        """Figures of each attempt under the model, for ``info``, whatever is minimised.

        ``target_loss`` is the loss of the target alone, ``flag_pressure`` P(flag) summed over its positions (where the
        model has a flag): an attack that only silences the flag lowers the second and not the first.
        """
        from rfbench.attacks.suffix.objectives import flag_reading, objective

        figures = {"target_loss": objective(self.mellowmax_alpha)}
        if model.flag_id is not None:
            figures["flag_pressure"] = flag_reading(model.flag_id, "sum", 0)
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

    def _groups(self, behaviors: Sequence[Behavior], rngs: Sequence[np.random.Generator]) -> list[list[Quest]]:
        """Searches by name that run side by side, group after group."""
        if self.universal:
            return [[("universal", behaviors, rngs[0])]]
        alone: list[Quest] = [(b.behavior_id, [b], rng) for b, rng in zip(behaviors, rngs, strict=True)]
        return [list(alone[i : i + self.side_by_side]) for i in range(0, len(alone), self.side_by_side)]

    def _recipients(
        self, behaviors: Sequence[Behavior], sound: Sequence[Behavior], sites: Sequence[Site]
    ) -> Sequence[Recipient]:
        """Who gets the suffix of a search: the behaviors that it is searched on."""
        return list(zip(sound, sites, strict=True))

    def _all_or_none(self) -> bool:
        """Whether a suffix is worth nothing unless it was searched on all the behaviors that it should be."""
        return False

    def _aim(self) -> Aim:
        from rfbench.attacks.suffix.models import Aim

        return Aim(
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
