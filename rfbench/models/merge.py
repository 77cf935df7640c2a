"""Fold a PEFT adapter into the weights of its base model, and make sure that this changed nothing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from rfbench.errors import ModelError

MERGE_TOLERANCE = 0.1
"""Mean change of the logits, in their standard deviations, that rounding in 16 bits can explain."""


def merge_adapter(module: Any, tokenizer: Any, adapter: Path) -> Any:
    """Load a PEFT adapter and fold it into the weights: one matrix product less per layer and token.

    Raises:
        ModelError: the adapter does not belong to this model, or cannot be folded in.
    """
    import torch

    adapted = attach_adapter(module, tokenizer, adapter)
    probe = torch.arange(16, device=module.get_input_embeddings().weight.device)[None]
    with torch.inference_mode():
        before = adapted(probe).logits.float()
    merged = fold_adapter(adapted)
    with torch.inference_mode():
        moved = float((merged(probe).logits.float() - before).abs().mean() / before.std())
    if not moved < MERGE_TOLERANCE:  # also when it is not a number
        raise ModelError(
            f"folding adapter {adapter} into the weights moves the logits by {float(moved):.2g} deviations"
        )
    return merged


def attach_adapter(module: Any, tokenizer: Any, adapter: Path, *, trainable: bool = False) -> Any:
    """Load a PEFT adapter beside the weights of its base, which gets rows for the tokens that the adapter brings.

    Raises:
        ModelError: the adapter does not belong to this model, or could never be folded in.
    """
    from peft import PeftModel

    _grow_vocabulary(module, max(len(tokenizer), _saved_rows(module, adapter)))
    with warnings.catch_warnings():
        # PEFT only warns, and leaves at zero what the file lacks: the base would be measured in the adapter's name.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        # It asks transformers by an old name.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        try:
            adapted = PeftModel.from_pretrained(module, str(adapter), is_trainable=trainable)
        except UserWarning as error:
            raise ModelError(f"adapter {adapter} lacks weights that its configuration promises") from error
    if not hasattr(adapted, "merge_and_unload"):
        raise ModelError(f"adapter {adapter} is no LoRA or the like: it cannot be folded into the weights")
    return adapted.eval()


def fold_adapter(adapted: Any) -> Any:
    """Fold what :func:`attach_adapter` or a training put beside the weights into them; returns the bare module."""
    import torch
    from peft.tuners.lora import LoraLayer

    module = adapted.get_base_model()
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    if module.config.tie_word_embeddings and any(isinstance(layer, LoraLayer) for layer in (embedding, head)):
        # One of two tied matrices was adapted: folded into what they share, it would change the other as well.
        inner = head.base_layer if isinstance(head, LoraLayer) else head
        inner.weight = torch.nn.Parameter(inner.weight.detach().clone())
        module.config.tie_word_embeddings = False
    return adapted.merge_and_unload()


def _saved_rows(module: Any, adapter: Path) -> int:
    """Rows of the embedding matrices that the adapter file brings whole, 0 when it brings none."""
    from safetensors import safe_open

    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        return 0
    ends = {module.get_input_embeddings(), module.get_output_embeddings()}
    names = [name for name, part in module.named_modules() if part in ends]
    with safe_open(file, framework="pt") as tensors:
        return max(
            (
                tensors.get_slice(key).get_shape()[0]
                for key in tensors.keys()  # noqa: SIM118 (not a dict)
                if key.endswith(".weight") and "lora_" not in key and any(f".{name}." in key for name in names)
            ),
            default=0,
        )


def _grow_vocabulary(module: Any, rows: int) -> None:
    """Add rows of zeros, so that one the adapter does not bring is seen to be untrained."""
    import torch

    known = module.get_input_embeddings().num_embeddings
    if rows <= known:
        return
    module.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for matrix in (module.get_input_embeddings(), module.get_output_embeddings()):
            matrix.weight[known:] = 0.0
