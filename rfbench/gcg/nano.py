"""The nanogcg package (0.3.0, https://github.com/GraySwanAI/nanoGCG) as the engine of a search.

Its optimiser runs unchanged. Stand-ins for its model and tokenizer adapt it from outside: caches of current
transformers look to it like the tuples that it expects; it gets the ids that rfbench lays out, so that typed special
tokens stay text; its filter asks whether ids survive inside the whole chat; the flag and special tokens stay out of
its search space; the flag's bias is part of the logits that it reads. What it writes, and what it draws from global
random state, stays inside.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rfbench.errors import AttackError
from rfbench.gcg.evaluator import Costs, shares_prefixes
from rfbench.gcg.layout import Ids, suffix_text
from rfbench.gcg.search import Search, Settings, Site
from rfbench.gcg.state import Entry, State

BEFORE, AFTER, TARGET, INITIAL = "\0before", "\0after", "\0target", "\0initial"
"""What the package takes for texts; their ids are laid out already."""

logger = logging.getLogger(__name__)


def optimise_by_nanogcg(
    searches: Mapping[str, Search],
    states: Mapping[str, State],
    settings: Settings,
    *,
    model: Any,
    mellowmax_alpha: float | None,
    batch: int | None,
) -> Iterator[tuple[str, State | AttackError]]:
    """What :func:`rfbench.gcg.search.optimise` does, by the package, one search after the other.

    A search that has begun already runs again, being no function but of its seed, and yields what is still to come.
    """
    for name, search in searches.items():
        reached = states[name].step if name in states else -1
        try:
            for state in run_nanogcg(search, settings, model=model, mellowmax_alpha=mellowmax_alpha, batch=batch):
                if state.step > reached:
                    yield name, state
        except AttackError as error:
            yield name, error


def run_nanogcg(
    search: Search, settings: Settings, *, model: Any, mellowmax_alpha: float | None, batch: int | None
) -> Iterator[State]:
    """Optimise with the package: the initial state, then one for each of its steps once it is through.

    ``loss`` and the losses of ``best`` are the package's own. As there, the initial text does not compete with what
    the steps found.

    Raises:
        AttackError: the package fails, or reports a loss that is not finite.
    """
    from nanogcg.gcg import GCG, GCGConfig

    site = search.sites[0]
    start = search.start(settings)
    yield start
    if start.matched:
        return
    config = GCGConfig(
        num_steps=settings.n_steps,
        optim_str_init=INITIAL if len(search.initial) == 1 else [f"{INITIAL}{i}" for i in range(len(search.initial))],
        search_width=settings.width,
        batch_size=batch,
        topk=min(settings.topk, int(search.allowed.sum())),
        n_replace=settings.n_replace,
        buffer_size=settings.buffer_size,
        use_mellowmax=mellowmax_alpha is not None,
        mellowmax_alpha=mellowmax_alpha or 1.0,
        early_stop=settings.early_stop,
        use_prefix_cache=shares_prefixes(site.evaluator.module),
        allow_non_ascii=True,  # its search space is set below
        filter_ids=site.round_trip is not None,
    )
    network = LegacyModel(site.evaluator.module, model.flag_id, model.flag_bias)
    texts = LaidOutTokenizer(model.tokenizer, site, search.initial)
    spent: list[tuple[int, float]] = []

    class Engine(GCG):  # type: ignore[misc]
        def compute_token_gradient(self, optim_ids: torch.Tensor) -> torch.Tensor:
            spent.append((network.n_rows, network.flops))
            gradient: torch.Tensor = super().compute_token_gradient(optim_ids)
            return gradient

    seed = int(search.rng.integers(2**31))
    with _fenced(network.device, seed):
        try:
            engine = Engine(network, texts, config)
            forbidden = torch.ones(network.get_input_embeddings().num_embeddings, dtype=torch.bool)
            forbidden[: len(search.allowed)] = ~search.allowed.cpu()
            engine.not_allowed_ids = forbidden.nonzero()[:, 0]
            result = engine.run([{"role": "user", "content": "{optim_str}"}], TARGET)
        except (RuntimeError, ValueError, IndexError) as error:
            raise AttackError(f"nanogcg: {' '.join(str(error).split())}") from error
    spent.append((network.n_rows, network.flops))
    if not np.isfinite(result.losses).all():
        raise AttackError("nanogcg: the loss is not finite (too small a dtype, broken weights?)")
    best: Entry = (float("inf"), ())
    n_steps = len(result.losses)
    for step, (loss, text) in enumerate(zip(result.losses, result.strings, strict=True), start=1):
        best = min(best, (float(loss), texts.ids[text]), key=lambda entry: entry[0])
        n_rows, flops = spent[step]
        yield State(
            step=step,
            buffer=(best,),
            best=best,
            loss=float(loss),
            matched=engine.stop_flag and step == n_steps,
            n_queries=n_rows,
            flops=flops,
            rng=search.rng.bit_generator.state,
        )


class LegacyModel:
    """A causal language model whose caches are tuples of keys and values by layer, as in transformers of old.

    Counts the rows that go through, and operations as :class:`rfbench.gcg.evaluator.Evaluator` does, with logits at
    all positions, since the package computes them.
    """

    def __init__(self, module: Any, flag_id: int | None, flag_bias: float) -> None:
        self._module = module
        self._flag = (flag_id, flag_bias)
        self._costs = Costs.of(module)
        self.n_rows = 0
        self.flops = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *, inputs_embeds: torch.Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
        """The output of the model, its cache as tuples."""
        from transformers import DynamicCache

        cache = None
        if past_key_values is not None:
            cache = DynamicCache()
            for layer, (keys, values) in enumerate(past_key_values):
                cache.update(keys, values, layer)
        elif use_cache:
            cache = DynamicCache()
        output = self._module(inputs_embeds=inputs_embeds, past_key_values=cache, use_cache=cache is not None)
        rows, length = inputs_embeds.shape[:2]
        self.n_rows += rows
        self.flops += (1 + torch.is_grad_enabled()) * self._costs.forward(rows * length, rows * length)
        flag_id, bias = self._flag
        if flag_id is not None and bias:
            output.logits = output.logits.index_add(
                -1, torch.tensor([flag_id], device=self.device), torch.full_like(output.logits[..., :1], bias)
            )
        if cache is not None:
            output.past_key_values = [(layer.keys, layer.values) for layer in cache.layers]
        return output


class LaidOutTokenizer:
    """A tokenizer for one chat: knows the ids around the suffix, and which suffixes survive inside it.

    ``ids`` holds the suffixes it has decoded, by text.
    """

    def __init__(self, tokenizer: Any, site: Site, initial: Sequence[Ids]) -> None:
        self._tokenizer = tokenizer
        self._site = site
        layout = site.layout
        self._known: dict[str, Ids] = {BEFORE: layout.before, AFTER: layout.after, TARGET: layout.target}
        self._known |= {f"{INITIAL}{i}": ids for i, ids in enumerate(initial)} | {INITIAL: initial[0]}
        self.ids: dict[str, Ids] = {}
        self.chat_template = "laid out"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, messages: object, **options: object) -> str:
        """The chat, with its two parts in place of their texts."""
        return f"{BEFORE}{{optim_str}}{AFTER}"

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        """Texts of suffixes ``(c, s)`` where they stand."""
        rows: list[Ids] = [tuple(row) for row in ids.tolist()]
        texts = [suffix_text(self._tokenizer, self._site.layout, row) for row in rows]
        survives = np.ones(len(rows), dtype=np.bool_)
        if self._site.round_trip is not None:
            survives = self._site.round_trip.survivors(np.array(rows, dtype=np.int64))
        for text, row, alive in zip(texts, rows, survives, strict=True):
            # Several rows may share a text: at most one of them is what that text encodes to.
            if alive or text not in self.ids:
                self.ids[text] = row
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


@contextlib.contextmanager
def _fenced(device: torch.device, seed: int) -> Iterator[None]:
    """Global random state seeded inside and restored on leaving; what is printed and logged goes to our debug log."""
    theirs = logging.getLogger("nanogcg")
    level, sink = theirs.level, io.StringIO()
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        for each in devices:
            torch.cuda.set_rng_state(torch.Generator(each).manual_seed(seed).get_state(), each)
        theirs.setLevel(logging.ERROR)
        try:
            yield
        finally:
            theirs.setLevel(level)
            logger.debug("nanogcg: %s", sink.getvalue())
