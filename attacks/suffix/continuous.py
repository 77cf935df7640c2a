"""Steps of continuous attacks on vectors ``(s, d)`` that a model reads in place of tokens (arXiv 2402.09063)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rfbench.files.arrays import pack, unpack

Bound = Literal["none", "l2", "linf"]


@dataclass(frozen=True, slots=True)
class Moments:
    """Decaying means of the gradient and of its square, ``(s, d)``, after ``n`` steps (Adam, arXiv 1412.6980)."""

    mean: torch.Tensor
    square: torch.Tensor
    n: int = 0

    @classmethod
    def none(cls, like: torch.Tensor) -> Moments:
        """Before the first step."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    def update(self, gradient: torch.Tensor, beta1: float = 0.9, beta2: float = 0.999) -> Moments:
        """One gradient ``(s, d)`` later."""
        mean = beta1 * self.mean + (1 - beta1) * gradient
        square = beta2 * self.square + (1 - beta2) * gradient**2
        return Moments(mean, square, self.n + 1)

    def direction(self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> torch.Tensor:
        """Adam's direction of ascent ``(s, d)``, corrected for the start at zero."""
        mean: torch.Tensor = self.mean / (1 - beta1**self.n)
        square: torch.Tensor = self.square / (1 - beta2**self.n)
        return mean / (square.sqrt() + eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """An optimisation after ``step`` steps: all that later steps depend on.

    ``shift`` ``(s, d)`` is where the next step evaluates, as a distance from the origin, and ``moments`` go with it.
    ``vectors`` ``(s, d)`` are the best so far, with their ``figures``.
    """

    step: int
    shift: torch.Tensor
    moments: Moments
    vectors: torch.Tensor
    figures: Mapping[str, float]
    flops: float

    @classmethod
    def start(cls, origin: torch.Tensor) -> Descent:
        """Before the first evaluation, which is to be at ``origin`` ``(s, d)``."""
        figures = {"loss": float("inf")}
        return cls(
            step=-1,
            shift=torch.zeros_like(origin),
            moments=Moments.none(origin),
            vectors=origin,
            figures=figures,
            flops=0.0,
        )

    def to_json(self) -> dict[str, Any]:
        """As values that JSON can hold, exactly."""
        tensors = (self.shift, self.moments.mean, self.moments.square, self.vectors)
        return {
            "step": self.step,
            "n": self.moments.n,
            "figures": dict(self.figures),
            "flops": self.flops,
            "tensors": [pack(tensor.cpu().numpy()) for tensor in tensors],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], device: torch.device) -> Descent:
        """The inverse of :meth:`to_json`."""
        shift, mean, square, vectors = (torch.from_numpy(unpack(each)).to(device) for each in values["tensors"])
        return cls(
            step=values["step"],
            shift=shift,
            moments=Moments(mean, square, values["n"]),
            vectors=vectors,
            figures=values["figures"],
            flops=values["flops"],
        )


def project(shift: torch.Tensor, bound: Bound, radius: float) -> torch.Tensor:
    """``shift`` ``(s, d)`` brought within ``radius``: of each vector's length (l2), of each number (linf)."""
    if bound == "l2":
        lengths: torch.Tensor = shift.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return shift * (radius / lengths).clamp(max=1.0)
    return shift.clamp(-radius, radius) if bound == "linf" else shift


def typical_size(vectors: torch.Tensor) -> float:
    """Root mean square of the numbers of an embedding matrix ``(v, d)``: the unit of steps and bounds."""
    return float(vectors.float().pow(2).mean().sqrt())
