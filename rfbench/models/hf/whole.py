"""Generation where the KV cache does not always serve the next step: such steps compute whole rows again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from rfbench.models.hf.kv_cache import SlabCache
from rfbench.models.hf.ways import Ways


@dataclass(frozen=True, slots=True)
class Whole:
    """A batch of rows without padding: their ids ``(b, l)``, or what is read in their place ``(b, l, d)``.

    ``cache`` holds the keys and values of all of it, with room for ``capacity`` tokens; ``None`` where they would not
    serve the next step.
    """

    inputs: torch.Tensor
    cache: SlabCache | None
    capacity: int
    n_layers: int
    ways: Ways

    def keep(self, rows: torch.Tensor) -> Whole:
        """Keep (or repeat) the rows named by index."""
        if self.cache is not None:
            self.cache.keep_rows(rows)
        return replace(self, inputs=self.inputs[rows])

    def advance(self, module: Any, next_ids: torch.Tensor) -> tuple[torch.Tensor, Whole]:
        """Append one id ``(b,)`` to each row; logits ``(b, v)`` after it, in fp32, and the state then."""
        new = next_ids[:, None]
        vectors = self.inputs.dim() == 3
        read = module.get_input_embeddings()(new).to(self.inputs.dtype) if vectors else new
        grown = replace(self, inputs=torch.cat([self.inputs, read], dim=1))
        if self.cache is None or not self.ways.keeps(self.inputs.shape[1]):
            return grown.compute(module, next_ids.device)
        output = module(input_ids=new, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].to(next_ids.device, torch.float32), grown

    def compute(self, module: Any, device: torch.device) -> tuple[torch.Tensor, Whole]:
        """Logits ``(b, v)`` after the last token, everything computed anew, and the state then."""
        cache = SlabCache(self.n_layers, self.capacity) if self.ways.keeps(self.inputs.shape[1]) else None
        name = "inputs_embeds" if self.inputs.dim() == 3 else "input_ids"
        past = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
        output = module(**{name: self.inputs}, **past, logits_to_keep=1)
        return output.logits[:, -1].to(device, torch.float32), replace(self, cache=cache)
