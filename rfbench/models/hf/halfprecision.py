"""Whether a processor has instructions for products of 16-bit numbers: one without them falls back to loops."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)

_SUPPORTED = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}


def multiplies(dtype: torch.dtype, device: torch.device | str) -> bool:
    """Whether matrix products in ``dtype`` take no more than a few times those in fp32; true where it cannot be told.

    That is no promise that they are faster: AVX-512 without BF16 counts, which widens the numbers first.
    """
    if torch.device(device).type != "cpu" or dtype not in _SUPPORTED:
        return True
    ask = getattr(torch.ops.mkldnn, _SUPPORTED[dtype], None)
    return ask is None or bool(ask())


def warn_if_slow(dtype: torch.dtype, device: torch.device | str, setting: str) -> None:
    """Log one line where products in ``dtype`` would take a hundred times as long as in float32.

    Args:
        dtype: what is to be computed in.
        device: where.
        setting: name of the setting that chose it, for the remedy.
    """
    if not multiplies(dtype, device):
        name = str(dtype).removeprefix("torch.")
        logger.warning(
            "this processor does not multiply %s: a step can take a hundred times as long; set %s: float32",
            name,
            setting,
        )
