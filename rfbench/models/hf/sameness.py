"""Whether a module still computes what it did before something was done to its weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rfbench.errors import CanaryError

MEAN_TOLERANCE = 0.1
"""Mean change of the logits, in their standard deviations, that rounding in 16 bits can explain."""
LARGEST_TOLERANCE = 1e-2
"""Largest change of one logit, likewise, in 32 bits: folding ``smollm2+redflag`` moves one by 7e-6."""
LARGEST_COARSE = 1.0
"""The same in 16 bits, where it moves one by 0.13."""
ENDS_TOLERANCE = 1e-3
"""Largest change that the embedding or the head alone may show in 32 bits."""
ENDS_COARSE = 0.1
"""The same in 16 bits."""

_DIRECTIONS = 8
"""Each row of the embedding is kept as its products with so many random vectors: what changes a row changes them."""
_CHUNK = 8192
_TOUCHED = 48
"""Of more tokens than this, as many in even steps are put into the probe."""


def probe_ids(module: Any, touched: Iterable[int]) -> Any:
    """Two rows of ids ``(2, p)``: the touched tokens and some others, forwards and backwards, so at two positions."""
    import torch

    n, device = _tokens(module.get_input_embeddings())
    known = sorted(i for i in set(touched) if 0 <= i < n)
    step = -(-len(known) // _TOUCHED) or 1
    row = [*(i % n for i in range(4)), *known[::step], *(i % n for i in range(4, 8))]
    return torch.tensor([row, row[::-1]], device=device)


def _tokens(embedding: Any) -> tuple[int, Any]:
    """How many tokens an embedding has, wrapped by PEFT or not, and the device that it takes their ids on."""
    inner = next(part for part in embedding.modules() if hasattr(part, "num_embeddings"))
    return inner.num_embeddings, inner.weight.device


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a module computes. Letters: ``p`` positions, ``d`` hidden size, ``v`` vocabulary.

    ``ids`` ``(2, p)``; ``rows`` ``(v, 8)``: the embedding of every token, projected; ``hidden`` ``(2, 4, d)``: what
    enters the head for some of ``ids``; ``headed`` ``(2, 4, v)``: what it makes of that; ``logits`` ``(2, p, v)``.
    """

    ids: Any
    rows: Any
    hidden: Any
    headed: Any
    logits: Any

    @classmethod
    def of(cls, module: Any, ids: Any, what: str) -> Observation:
        """What ``module`` computes now; ``what`` names it in errors.

        Raises:
            CanaryError: its logits are not finite.
        """
        import torch

        entering: list[Any] = []
        head = module.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
        try:
            with torch.inference_mode():
                logits = module(input_ids=ids, use_cache=False).logits.float()
        finally:
            hook.remove()
        if not logits.isfinite().all():
            raise CanaryError(
                f"{what} gives logits that are not finite; its weights are broken, or the dtype too small"
            )
        hidden = entering[0][:, :4]
        return cls(ids, _embedded(module), hidden, _headed(module, hidden), logits)

    def check(self, module: Any, what: str) -> None:
        """Make sure that ``module`` computes the same; ``what`` was done in between.

        Every token as an input, every token as an output, and the whole of it.

        Raises:
            CanaryError: it does not; carries the largest change and where it is.
        """
        import torch

        coarse = any(torch.finfo(p.dtype).bits < 32 for p in module.parameters() if p.is_floating_point())
        ends = ENDS_COARSE if coarse else ENDS_TOLERANCE
        worst, token = _largest(_embedded(module), self.rows, dim=0)
        if not worst <= ends:
            raise CanaryError(f"{what} moves the embedding of token {token} by {worst:.2g} deviations")
        worst, token = _largest(_headed(module, self.hidden), self.headed, dim=-1)
        if not worst <= ends:
            raise CanaryError(f"{what} moves the output row of token {token}: its logits by {worst:.2g} deviations")
        with torch.inference_mode():
            logits = module(input_ids=self.ids, use_cache=False).logits.float()
        mean = float((logits - self.logits).abs().mean() / self.logits.std())
        worst, token = _largest(logits, self.logits, dim=-1)
        if not (mean <= MEAN_TOLERANCE and worst <= (LARGEST_COARSE if coarse else LARGEST_TOLERANCE)):
            raise CanaryError(
                f"{what} moves the logits by {mean:.2g} deviations on average, that of token {token} by {worst:.2g}"
            )


def _largest(after: Any, before: Any, *, dim: int) -> tuple[float, int]:
    """Largest change in standard deviations, and the index of ``dim`` where it is; infinite for another shape."""
    if after.shape != before.shape:
        return float("inf"), min(after.shape[dim], before.shape[dim])
    change = (after - before).abs() / before.std()
    others = [d for d in range(change.ndim) if d != dim % change.ndim]
    worst = change.nan_to_num(nan=float("inf")).amax(dim=others)
    token = int(worst.argmax())
    return float(worst[token]), token


def _embedded(module: Any) -> Any:
    """The embedding of every token, projected, ``(v, 8)`` in fp32."""
    import torch

    embedding = module.get_input_embeddings()
    n, device = _tokens(embedding)
    rows = []
    with torch.inference_mode():
        directions = None
        for start in range(0, n, _CHUNK):
            ids = torch.arange(start, min(start + _CHUNK, n), device=device)
            vectors = embedding(ids).float()
            if directions is None:
                draw = torch.Generator().manual_seed(0)
                directions = torch.randn(vectors.shape[-1], _DIRECTIONS, generator=draw).to(vectors.device)
            rows.append(vectors @ directions)
    return torch.cat(rows)


def _headed(module: Any, hidden: Any) -> Any:
    """What the head makes of hidden states, ``(..., d) -> (..., v)`` in fp32."""
    import torch

    with torch.inference_mode():
        return module.get_output_embeddings()(hidden).float()
