"""Cheaper stand-ins for a model, to rank candidates with."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch

from rfbench.errors import AttackError
from rfbench.models.hf.halfprecision import warn_if_slow


def int8_copy(module: Any) -> Any:
    """A copy of ``module`` whose matrix products run on 8-bit integers: its own draft.

    Weights are quantised once and activations anew at every product (dynamic quantisation of PyTorch, CPUs only);
    everything else stays in fp32.

    Raises:
        AttackError: the model does not lie on a CPU, or this build of PyTorch has no 8-bit products.
    """
    device = module.get_input_embeddings().weight.device
    if device.type != "cpu":
        raise AttackError(f"draft int8 needs a model on the CPU, this one is on {device.type}; name a draft model")
    engine = next((name for name in ("x86", "fbgemm", "onednn", "qnnpack") if name in _engines()), None)
    if engine is None:
        raise AttackError("draft int8: this build of PyTorch has no 8-bit products; name a draft model")
    if torch.backends.quantized.engine == "none":
        torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        # Announced to move to another package, which the project does not depend on.
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            copy.deepcopy(module).float(), {torch.nn.Linear}, dtype=torch.qint8, inplace=True
        )
    return quantised.eval()


def in_dtype(module: Any, dtype: str) -> Any:
    """A copy of ``module`` that computes in another dtype, by its name in torch; itself where it does so already."""
    wanted: torch.dtype = getattr(torch, dtype)
    warn_if_slow(wanted, module.get_input_embeddings().weight.device, "draft_dtype")
    return module if module.dtype == wanted else copy.deepcopy(module).to(wanted)


def _engines() -> list[str]:
    return list(torch.backends.quantized.supported_engines)
