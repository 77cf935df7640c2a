"""Generation without padding, by a cache of the module's own, or where none always serves the next step.

Such steps compute whole rows again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch

from rfbench.models.hf.kv_cache import SlabCache
from rfbench.models.hf.ways import Ways

CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")
"""What a cache is called among outputs and arguments; Mamba, RWKV, XLNet and Reformer have words of their own."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A batch of rows without padding: their ids ``(b, l)``, or what is read in their place ``(b, l, d)``.

    ``past`` is what the module goes on from, by the name of its argument; ``None`` where nothing would serve the next
    step. Of keys and values there is room for ``capacity`` tokens.
    """

    inputs: torch.Tensor
    past: Mapping[str, Any] | None
    capacity: int
    n_layers: int
    ways: Ways

    def keep(self, rows: torch.Tensor) -> Whole:
        """Keep (or repeat) the rows named by index."""
        if self._slab is None:  # no two kinds of cache drop rows alike: it is made anew
            return replace(self, inputs=self.inputs[rows], past=None)
        self._slab.keep_rows(rows)
        return replace(self, inputs=self.inputs[rows])

    def advance(self, module: Any, next_ids: torch.Tensor) -> tuple[torch.Tensor, Whole]:
        """Append one id ``(b,)`` to each row; logits ``(b, v)`` after it, in fp32, and the state then."""
        new = next_ids[:, None]
        vectors = self.inputs.dim() == 3
        read = module.get_input_embeddings()(new).to(self.inputs.dtype) if vectors else new
        grown = replace(self, inputs=torch.cat([self.inputs, read], dim=1))
        if self.past is None or not self.ways.keeps(self.inputs.shape[1]):
            return grown.compute(module, next_ids.device)
        place = {}
        if "position_ids" in signature(module.forward).parameters:  # some begin at 0 again unless they are told
            place["position_ids"] = torch.full_like(new, self.inputs.shape[1])
        output = module(input_ids=new, **place, **self.past, use_cache=True, logits_to_keep=1)
        past = self.past if self._slab is not None else past_of(output)
        return output.logits[:, -1].to(next_ids.device, torch.float32), replace(grown, past=past)

    def compute(self, module: Any, device: torch.device) -> tuple[torch.Tensor, Whole]:
        """Logits ``(b, v)`` after the last token, everything computed anew, and the state then."""
        keeps = self.ways.keeps(self.inputs.shape[1])
        given = {"past_key_values": SlabCache(self.n_layers, self.capacity)} if keeps and self.ways.caches else {}
        name = "inputs_embeds" if self.inputs.dim() == 3 else "input_ids"
        output = module(**{name: self.inputs}, **given, use_cache=keeps, logits_to_keep=1)
        past = (given or past_of(output)) if keeps else None
        return output.logits[:, -1].to(device, torch.float32), replace(self, past=past)

    @property
    def _slab(self) -> SlabCache | None:
        cache = (self.past or {}).get("past_key_values")
        return cache if isinstance(cache, SlabCache) else None


def past_of(output: Any) -> dict[str, Any] | None:
    """The cache in a module's output, by the name of the argument that takes it; ``None`` where there is none."""
    found = {name: getattr(output, name, None) for name in CACHES}
    return next(({name: cache} for name, cache in found.items() if cache is not None), None)


def kept_bytes(past: object) -> int:
    """What the tensors of a cache take, wherever in it they are."""
    if isinstance(past, torch.Tensor):
        return past.numel() * past.itemsize
    if isinstance(past, Mapping):
        return sum(map(kept_bytes, past.values()))
    if isinstance(past, list | tuple):
        return sum(map(kept_bytes, past))
    return kept_bytes(vars(past)) if type(past).__module__.startswith("transformers.") else 0
