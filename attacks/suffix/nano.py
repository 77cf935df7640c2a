"""The nanogcg package (0.3.0, https://github.com/GraySwanAI/nanoGCG) as the engine of a search.

Its optimiser runs unchanged, one step at a time, so that every step has seconds of its own and can be gone on from:
only its buffer and the global random state pass from one step to the next. Stand-ins for its model and tokenizer adapt
it from outside: caches of current transformers look to it like the tuples that it expects; it gets the ids that
rfbench lays out, so that typed special tokens stay text; its filter asks whether ids survive inside the whole chat; the
flag and special tokens stay out of its search space; the flag's bias is part of the logits that it reads. What it
writes, and what it draws from global random state, stays inside.
"""

from __future__ import annotations

import base64
import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rfbench.attacks.suffix.chats import Placement
from rfbench.attacks.suffix.costs import Costs
from rfbench.attacks.suffix.layout import Ids, suffix_text
from rfbench.attacks.suffix.search import Search, Settings, finished
from rfbench.attacks.suffix.state import Entry, State
from rfbench.errors import AttackError

BEFORE, AFTER, TARGET, INITIAL = "\0before", "\0after", "\0target", "\0initial"
"""What the package takes for texts; their ids are laid out already."""

logger = logging.getLogger(__name__)


def optimise_by_nanogcg(
    searches: Mapping[str, Search],
    begun: Mapping[str, State],
    settings: Settings,
    *,
    model: Any,
    mellowmax_alpha: float | None,
    batch: int | None,
) -> Iterator[tuple[str, State | AttackError]]:
    """What :func:`rfbench.attacks.suffix.search.optimise` does, by the package, one search after the other."""
    for name, search in searches.items():
        try:
            for state in run_nanogcg(
                search, settings, begun.get(name), model=model, mellowmax_alpha=mellowmax_alpha, batch=batch
            ):
                yield name, state
        except AttackError as error:
            yield name, error


def run_nanogcg(
    search: Search,
    settings: Settings,
    begun: State | None,
    *,
    model: Any,
    mellowmax_alpha: float | None,
    batch: int | None,
) -> Iterator[State]:
    """Optimise with the package: the initial state, unless the search has begun, then one for each of its steps.

    ``loss`` and the losses of ``best`` are the package's own. As there, the initial text does not compete with what
    the steps found, but for a place in the buffer.

    Raises:
        AttackError: the package fails, or reports a loss that is not finite.
    """
    own = replace(settings, buffer_size=0)  # the package fills its buffer itself
    state = search.start(own) if begun is None else begun
    if begun is None:
        yield state
    if finished(state, settings):
        return
    engine = open_engine(search, settings, model=model, mellowmax_alpha=mellowmax_alpha, batch=batch)
    if state.step:
        best, n_queries, flops = state.best, state.n_queries, state.flops
        engine.restore(state.buffer)
        isolated = IsolatedRandomState(engine.model.device, [base64.b64decode(each) for each in state.rng["torch"]])
    else:
        placement = search.placements[0]
        best, n_queries, flops = (float("inf"), ()), 0, placement.evaluator.prefix_flops(placement.layout)
        search.rng.bit_generator.state = state.rng
        isolated = IsolatedRandomState.seeded(engine.model.device, int(search.rng.integers(2**31)))
    while not finished(state, settings):
        with isolated.inside():
            try:
                result = engine.run([{"role": "user", "content": "{optim_str}"}], TARGET)
            except (RuntimeError, ValueError, IndexError) as error:
                raise AttackError(f"nanogcg: {' '.join(str(error).split())}") from error
        if not np.isfinite(result.losses).all():
            raise AttackError("nanogcg: the loss is not finite (too small a dtype, broken weights?)")
        buffer = engine.entries()
        best = min(best, buffer[0], key=lambda entry: entry[0])
        state = State(
            step=state.step + 1,
            buffer=buffer,
            best=best,
            loss=float(result.losses[0]),
            matched=engine.stop_flag,
            n_queries=n_queries + engine.model.n_rows,
            flops=flops + engine.model.flops,
            rng={"torch": [base64.b64encode(each).decode("ascii") for each in isolated.states]},
        )
        yield state


def open_engine(
    search: Search,
    settings: Settings,
    *,
    model: Any,
    mellowmax_alpha: float | None,
    batch: int | None,
    n_steps: int = 1,
) -> Any:
    """The package's optimiser on the chat of a search, making ``n_steps`` steps a run.

    Its buffer stays with it, so that the next run goes on from the last: in the package a run is a loop that carries
    nothing else from step to step. What the package computes before the loop (embeddings of the chat, the cache of the
    prefix) it computes in every run; the cache, the only part that costs, is remembered by :class:`LegacyModel`.
    """
    from nanogcg.gcg import GCG, AttackBuffer, GCGConfig

    placement = search.placements[0]
    # Of its own it would fill the buffer with texts of which hardly any comes back as the same ids.
    initial = [*search.initial, *search.fillers(settings.buffer_size - len(search.initial))]
    config = GCGConfig(
        num_steps=n_steps,
        optim_str_init=INITIAL if len(initial) == 1 else [f"{INITIAL}{i}" for i in range(len(initial))],
        search_width=settings.width,
        batch_size=batch if placement.evaluator.ways.batches else 1,
        topk=min(settings.topk, int(search.allowed.sum())),
        n_replace=settings.n_replace,
        buffer_size=settings.buffer_size,
        use_mellowmax=mellowmax_alpha is not None,
        mellowmax_alpha=mellowmax_alpha or 1.0,
        early_stop=settings.early_stop,
        use_prefix_cache=placement.evaluator.shares(len(placement.layout.fill(placement.layout.suffix))),
        allow_non_ascii=True,  # its search space is set below
        filter_ids=placement.round_trip is not None,
    )

    class Engine(GCG):  # type: ignore[misc]
        kept: Any = None

        def init_buffer(self) -> Any:
            if self.kept is None:
                self.kept = super().init_buffer()
            return self.kept

        def entries(self) -> tuple[Entry, ...]:
            return tuple((float(loss), tuple(ids[0].tolist())) for loss, ids in self.kept.buffer)

        def restore(self, entries: Sequence[Entry]) -> None:
            self.kept = AttackBuffer(config.buffer_size)
            self.kept.buffer = [(loss, torch.tensor([ids], device=self.model.device)) for loss, ids in entries]

    network = LegacyModel(placement.evaluator.module, model.flag_id, model.flag_bias)
    with IsolatedRandomState.seeded(network.device, 0).inside():  # it logs advice
        engine = Engine(network, LaidOutTokenizer(model.tokenizer, placement, initial), config)
    forbidden = torch.ones(network.get_input_embeddings().num_embeddings, dtype=torch.bool)
    forbidden[: len(search.allowed)] = ~search.allowed.cpu()
    engine.not_allowed_ids = forbidden.nonzero()[:, 0]
    return engine


class LegacyModel:
    """A causal language model whose caches are tuples of keys and values by layer, as in transformers of old.

    Counts the rows that go through, and operations as :class:`rfbench.attacks.suffix.evaluator.Evaluator` does, with
    logits at all positions, since the package computes them. The prefix that is to be cached is computed once, and,
    as there, no part of these counts.
    """

    def __init__(self, module: Any, flag_id: int | None, flag_bias: float) -> None:
        self._module = module
        self._flag = (flag_id, flag_bias)
        self._costs = Costs.of(module)
        self._prefix: Any = None
        self.n_rows = 0
        self.flops = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *, inputs_embeds: torch.Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
        """The output of the model, its cache as tuples."""
        if past_key_values is None and use_cache:
            if self._prefix is None:
                self._prefix = self._forward(inputs_embeds, None, use_cache)
            return self._prefix
        rows, length = inputs_embeds.shape[:2]
        self.n_rows += rows
        self.flops += (1 + torch.is_grad_enabled()) * self._costs.forward(rows * length, rows * length)
        return self._forward(inputs_embeds, past_key_values, use_cache)

    def _forward(self, inputs_embeds: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
        from transformers import DynamicCache

        cache = None
        if past_key_values is not None:
            cache = DynamicCache()
            for layer, (keys, values) in enumerate(past_key_values):
                cache.update(keys, values, layer)
        elif use_cache:
            cache = DynamicCache()
        output = self._module(inputs_embeds=inputs_embeds, past_key_values=cache, use_cache=cache is not None)
        flag_id, bias = self._flag
        if flag_id is not None and bias:
            output.logits = output.logits.index_add(
                -1, torch.tensor([flag_id], device=self.device), torch.full_like(output.logits[..., :1], bias)
            )
        if cache is not None:
            output.past_key_values = [(layer.keys, layer.values) for layer in cache.layers]
        return output


class LaidOutTokenizer:
    """A tokenizer for one chat: knows the ids around the suffix, and which suffixes survive inside it."""

    def __init__(self, tokenizer: Any, placement: Placement, initial: Sequence[Ids]) -> None:
        self._tokenizer = tokenizer
        self._placement = placement
        layout = placement.layout
        self._known: dict[str, Ids] = {BEFORE: layout.before, AFTER: layout.after, TARGET: layout.target}
        self._known |= {f"{INITIAL}{i}": ids for i, ids in enumerate(initial)} | {INITIAL: initial[0]}
        self.chat_template = "laid out"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, messages: object, **options: object) -> str:
        """The chat, with its two parts in place of their texts."""
        return f"{BEFORE}{{optim_str}}{AFTER}"

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        """Texts of suffixes ``(c, s)`` where they stand."""
        rows: list[Ids] = [tuple(row) for row in ids.tolist()]
        texts = [suffix_text(self._tokenizer, self._placement.layout, row) for row in rows]
        survives = np.ones(len(rows), dtype=np.bool_)
        if self._placement.round_trip is not None:
            survives = self._placement.round_trip.survivors(np.array(rows, dtype=np.int64))
        for text, row, alive in zip(texts, rows, survives, strict=True):
            # Several rows may share a text: at most one of them is what that text encodes to.
            self._known[text] = row if alive else self._known.get(text, ())
        return texts

    def __call__(self, text: str | list[str], **options: object) -> Any:
        """Ids of one of the known texts, or of several; of others, those of the real tokenizer."""
        from transformers import BatchEncoding

        texts = [text] if isinstance(text, str) else text
        if not all(each in self._known for each in texts):
            return self._tokenizer(text, **options)
        ids = [list(self._known[each]) for each in texts]
        return BatchEncoding({"input_ids": torch.tensor(ids, dtype=torch.int64)})


class IsolatedRandomState:
    """A global random state of the package's own, the caller's restored after it; what it prints goes to our debug log.

    ``states`` are the bytes of the states that the next use begins with: of the CPU, and of ``device`` if it has one.
    """

    def __init__(self, device: torch.device, states: Sequence[bytes]) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self.states = tuple(states)

    @classmethod
    def seeded(cls, device: torch.device, seed: int) -> IsolatedRandomState:
        """With the states of fresh generators."""
        places = [torch.device("cpu"), *([device] if device.type == "cuda" else [])]
        return cls(device, [_bytes(torch.Generator(place).manual_seed(seed).get_state()) for place in places])

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """One use; the next one goes on from the random states that it leaves."""
        theirs = logging.getLogger("nanogcg")
        level, sink = theirs.level, io.StringIO()
        with (
            torch.random.fork_rng(devices=self._devices),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            cpu, *others = (torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in self.states)
            torch.set_rng_state(cpu)
            for device, state in zip(self._devices, others, strict=True):
                torch.cuda.set_rng_state(state, device)
            theirs.setLevel(logging.ERROR)
            try:
                yield
            finally:
                theirs.setLevel(level)
                after = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]
                self.states = tuple(map(_bytes, after))
                logger.debug("nanogcg: %s", sink.getvalue())


def _bytes(state: torch.Tensor) -> bytes:
    return state.numpy().tobytes()
