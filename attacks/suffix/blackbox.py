"""Shared parts of gradient-free suffix searches: the place in the chat, losses, the loop, the attempts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rfbench.attacks.suffix.costs import Costs
from rfbench.attacks.suffix.layout import Ids, RoundTrip, lay_out, searchable_ids, suffix_text, write
from rfbench.errors import AttackError, ModelError
from rfbench.models.base import Capability, ChatModel, local
from rfbench.records import Attempt, Behavior, Message

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]

TEMPLATE: Sequence[Message] = ({"role": "user", "content": "{request}{optim_str}"},)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A search after ``step`` steps: all that later steps depend on.

    ``suffixes`` are those that it goes on from, best first; ``loss`` is that of the first; ``best`` is the lowest loss
    so far, and its suffix. ``rng`` is the state of the search's random generator.
    """

    step: int
    suffixes: tuple[Ids, ...]
    loss: float
    best: tuple[float, Ids]
    n_queries: int
    flops: float | None
    rng: Mapping[str, Any]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> State:
        """The inverse of ``dataclasses.asdict``, after JSON has made lists of tuples."""
        loss, ids = values["best"]
        lists = {"suffixes": tuple(tuple(ids) for ids in values["suffixes"]), "best": (loss, tuple(ids))}
        return cls(**{**values, **lists})


class BlackBox:
    """One behavior under a model that gives log-probabilities and no gradients.

    ``n_queries`` counts the sequences that were asked about; ``flops`` the operations of that, as
    :class:`rfbench.attacks.suffix.evaluator.Evaluator` counts them (every token of each sequence: nothing is cached
    between them), and ``None`` where the weights are not in this process. ``allowed`` are the ids that may be
    searched ``(n,)``.

    Args:
        model: the system under attack.
        behavior: what to attack; its target is to be said.
        initial: the suffix to start from, or one that keeps its place.
        first: how many tokens of the target count; ``None`` is all of them.
        non_ascii: search also ids that are not printable ASCII.

    Raises:
        AttackError: see :func:`rfbench.attacks.suffix.layout.lay_out`.
    """

    def __init__(
        self, model: ChatModel, behavior: Behavior, initial: str, *, first: int | None, non_ascii: bool
    ) -> None:
        self.model = model
        self.behavior = behavior
        self.layout = lay_out(model, TEMPLATE, behavior, initial, behavior.target)
        self.allowed: IntArray = np.flatnonzero(searchable_ids(model, non_ascii=non_ascii))
        if not len(self.allowed):
            raise AttackError("no id is left in the search space; set non_ascii")
        self.n_queries = 0
        self._costs = Costs.of(local(model).module) if Capability.GRADIENTS in model.capabilities else None
        self.flops = None if self._costs is None else 0.0
        self._counted = self.layout.target[:first]
        self._round_trip = RoundTrip(model, self.layout, lambda text: write(TEMPLATE, behavior.request, text))

    def survivors(self, candidates: IntArray) -> IntArray:
        """Those of the candidates ``(c, s)`` that survive re-tokenisation inside the whole chat."""
        return candidates[self._round_trip.survivors(candidates)]

    def losses(self, candidates: Sequence[Ids] | IntArray) -> npt.NDArray[np.float64]:
        """Mean negative log-likelihood of the target's counted tokens, ``(c,)``, in nats per token.

        Raises:
            AttackError: one is not finite, or does not fit into memory.
        """
        prompts = [(*self.layout.before, *map(int, ids), *self.layout.after) for ids in candidates]
        with self._about_this():
            log_p = self.model.target_log_probs(prompts, [self._counted] * len(prompts))
        self._count([(*prompt, *self._counted) for prompt in prompts], len(self._counted))
        losses = np.array([-row.mean() for row in log_p])
        if not np.isfinite(losses).all():
            raise AttackError(
                f"behavior {self.behavior.behavior_id!r}: the loss is not finite (too small a dtype, broken weights?)"
            )
        return losses

    def continuations(self, suffixes: IntArray) -> npt.NDArray[np.float64]:
        """Log-probabilities of the searchable ids as the next one after each suffix ``(c, s)``, ``(c, n)``."""
        prompts = [(*self.layout.before, *ids) for ids in suffixes.tolist()]
        with self._about_this():
            log_p = self.model.next_log_probs(prompts)
        self._count(prompts, 1)
        return log_p[:, self.allowed]

    @contextlib.contextmanager
    def _about_this(self) -> Iterator[None]:
        """An error of a single sequence (out of memory) is one of this behavior, and not of the model."""
        try:
            yield
        except ModelError as error:
            raise AttackError(f"behavior {self.behavior.behavior_id!r}: {error}") from error

    def _count(self, sequences: Sequence[Ids], n_logits: int) -> None:
        self.n_queries += len(sequences)
        if self._costs is not None and self.flops is not None:
            self.flops += self._costs.forward(sum(map(len, sequences)), n_logits * len(sequences))

    def search(
        self,
        start: Ids,
        advance: Callable[[State], tuple[Sequence[Ids], float]],
        finished: Callable[[State], bool],
        *,
        every: int,
        rng: np.random.Generator,
        saved: Mapping[str, Any] | None,
        keep: Callable[[Mapping[str, Any]], None],
    ) -> Iterator[Attempt]:
        """Yield the attempts of a search, with its best suffix so far: one per ``every`` steps and one for the last.

        Args:
            start: the suffix before the first step.
            advance: one step: suffixes to go on from, best first, and the loss of the first.
            finished: whether the search has ended.
            every: steps between two attempts.
            rng: what ``advance`` draws from.
            saved: where an interrupted search goes on; ``None`` begins one.
            keep: given that before each attempt.
        """
        state: State | None = None
        if saved is not None:
            state = State.from_json(saved)
            rng.bit_generator.state = state.rng
            self.n_queries, self.flops = state.n_queries, state.flops
        while state is None or not finished(state):
            step = 0 if state is None else state.step + 1
            suffixes, loss = ([start], float(self.losses([start])[0])) if state is None else advance(state)
            reached = (loss, tuple(suffixes[0]))
            state = State(
                step=step,
                suffixes=tuple(suffixes),
                loss=loss,
                best=reached if state is None else min(state.best, reached, key=lambda found: found[0]),
                n_queries=self.n_queries,
                flops=self.flops,
                rng=rng.bit_generator.state,
            )
            if finished(state) or step % every == 0:
                keep(asdict(state))
                yield self._attempt(state, attempt_idx=-(-step // every), final=finished(state))

    def _attempt(self, state: State, *, attempt_idx: int, final: bool) -> Attempt:
        loss, suffix = state.best
        text = suffix_text(self.model.tokenizer, self.layout, suffix)
        return Attempt(
            self.behavior.behavior_id,
            messages=write(TEMPLATE, self.behavior.request, text),
            suffix=text,
            attempt_idx=attempt_idx,
            step=state.step,
            final=final,
            info={
                "loss": loss,
                "n_queries": state.n_queries,
                **({} if state.flops is None else {"flops": state.flops}),
                "step_loss": state.loss,
                "suffix_ids": list(suffix),
                "target_ids": list(self.layout.target),
            },
        )
