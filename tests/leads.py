"""A model of bytes whose flag leads by as much as a function of what it has read says: P(flag) is known everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from doubles import RF, ByteTokenizer, ScriptedModel

from rfbench.models.base import Capability, LocalModel
from rfbench.models.hf.ways import Ways

VOCABULARY = 259
Lead = Callable[[str], float]
"""From all text read so far to the flag's logit; those of all other ids are 0."""


class LeadModule:
    """Logits ``(b, kept, v)`` that are 0 but for the flag's; ``batches`` holds the rows of every pass."""

    def __init__(self, lead: Lead) -> None:
        self.lead = lead
        self.batches: list[int] = []

    def get_output_embeddings(self) -> Any:
        return SimpleNamespace(weight=torch.zeros(VOCABULARY, 1))

    def __call__(self, *, input_ids: torch.Tensor, use_cache: bool, logits_to_keep: torch.Tensor) -> Any:
        assert not use_cache
        self.batches.append(len(input_ids))
        logits = torch.zeros(len(input_ids), len(logits_to_keep), VOCABULARY)
        for row in range(len(input_ids)):
            for i, position in enumerate(logits_to_keep.tolist()):
                read = ByteTokenizer().decode(input_ids[row, : position + 1].tolist())
                logits[row, i, RF] = self.lead(read)
        return SimpleNamespace(logits=logits)


class LeadModel(ScriptedModel, LocalModel):
    """Reads a conversation as its bytes, one token each."""

    def __init__(self, lead: Lead, *, batch_size: int = 4, **settings: Any) -> None:
        super().__init__({}, capabilities=frozenset({Capability.GRADIENTS}), **settings)
        self.module = LeadModule(lead)
        self.ways = Ways()
        self.batch_size = batch_size

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def embedding(self) -> Any:
        raise NotImplementedError

    def with_system(self, system: str) -> LocalModel:
        raise NotImplementedError

    def continue_ids(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, suppress_flag: bool = False
    ) -> list[list[int]]:
        raise NotImplementedError
