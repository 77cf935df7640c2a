"""Logits at some positions of a pass alone: all of them, of long rows and a large vocabulary, would take gigabytes."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def logits_at(module: Any, keep: Tensor, **inputs: Any) -> Tensor:
    """Logits ``(b, n, v)`` at the positions ``keep`` ``(n,)`` of what is read, in the module's own dtype.

    Some architectures do not know ``logits_to_keep`` and give those of all positions without a word.

    Args:
        module: a causal language model of transformers.
        keep: positions, ascending; those of a cache do not count.
        inputs: arguments of the module, ``input_ids`` or ``inputs_embeds`` among them.
    """
    read = inputs["input_ids"] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
    logits: Tensor = module(logits_to_keep=keep, **inputs).logits
    if logits.shape[1] == read.shape[1] != len(keep):
        logits = logits[:, keep.to(logits.device)]
    return logits
