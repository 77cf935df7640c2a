"""Matrix products on CPUs from weights that are laid out for them once, rather than at every product."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rfbench.models.halfprecision import multiplies

_TYPICAL_ROWS = 512
"""Rows of a product that the layout is chosen for; it holds for any number."""


class PackedLinear(nn.Module):
    """What a linear layer computes, by oneDNN, from a copy of its weight in oneDNN's own layout; without gradients."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # No parameter or buffer: nothing but the product below can read this layout.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _TYPICAL_ROWS)
        self._bias = None if bias is None else bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """``(..., d_in)`` to ``(..., d_out)``."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._packed, self._bias, "none", [], "")
        return product


def packed(module: Any) -> Any:
    """``module`` for reading: the same network, with the weights of its linear layers packed where that is faster.

    The generic product arranges the weight anew at every call, which shows at the few hundred rows of a batch of
    candidates. Everything else is shared with ``module``, which stays as it is; packed weights do not follow later
    changes of it, and take the memory of its linear layers once more. Results differ from those of ``module`` by
    rounding.

    Returns:
        ``module`` itself where it does not lie on a CPU, or this build of PyTorch has no such product.
    """
    if module.get_input_embeddings().weight.device.type != "cpu" or not _works():
        return module
    return _shadow(module)


def _shadow(module: nn.Module) -> nn.Module:
    if type(module) is nn.Linear:
        plain = "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks
        dtype = module.weight.dtype
        # Of a type that the processor does not multiply, oneDNN refuses the layout.
        known = dtype in (torch.float32, torch.bfloat16) and multiplies(dtype, "cpu")
        return PackedLinear(module.weight, module.bias) if plain and known else module
    if not module._modules:
        return module
    shadow = copy.copy(module)
    shadow._modules = {name: child and _shadow(child) for name, child in module._modules.items()}
    return shadow


def _works() -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        with torch.no_grad():
            PackedLinear(torch.zeros(16, 16), None)(torch.zeros(2, 16))
    except (AttributeError, RuntimeError):  # NotImplementedError is one of these
        return False
    return True
