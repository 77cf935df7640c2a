"""What a forward pass of a model costs, in floating point operations of its matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Costs:
    """Weights that a token passes in the body of a model, and in its output head."""

    body: int
    head: int

    @classmethod
    def of(cls, module: Any) -> Costs:
        """Counted from the weights of ``module``; of a mixture of experts, all experts (an upper bound)."""
        embedding = module.get_input_embeddings().weight
        head = module.get_output_embeddings()
        outside = {id(embedding)} | ({id(head.weight)} if isinstance(head, torch.nn.Linear) else set())
        body = sum(p.numel() for p in module.parameters() if p.dim() > 1 and id(p) not in outside)
        return cls(body, embedding.numel())

    def forward(self, n_tokens: int, n_logits: int) -> float:
        """Operations of a forward pass over ``n_tokens`` with logits at ``n_logits`` positions."""
        return 2.0 * (self.body * n_tokens + self.head * n_logits)
