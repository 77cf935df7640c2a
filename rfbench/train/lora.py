"""A LoRA put into a model by peft, with a start that a seed decides."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import nn

from rfbench.errors import ConfigError
from rfbench.train.batches import stream
from rfbench.train.recipe import LoraSettings


def check_lora(module: Any, lora: LoraSettings) -> None:
    """Make sure that a model has the layers and modules that ``lora`` speaks of.

    Raises:
        ConfigError: it does not.
    """
    n_layers = module.config.num_hidden_layers
    if lora.first_layer >= n_layers:
        raise ConfigError(f"lora.first_layer is {lora.first_layer}, but the base has {n_layers} layers, from 0")
    known = {name.rpartition(".")[2] for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    if unknown := sorted(set(lora.targets) - known):
        raise ConfigError(
            f"lora.targets: the base has no linear module {unknown[0]!r}; there are: {', '.join(sorted(known))}"
        )


def inject(module: Any, lora: LoraSettings, flag_id: int | None, *, tied: bool, seed: int) -> Any:
    """``module`` with the LoRA inside, and trainable rows for the flag's token; all of it in fp32.

    Args:
        module: a causal language model of transformers, changed in place.
        lora: which updates.
        flag_id: id whose rows are trained, ``None`` for none.
        tied: whether input and output embeddings are one matrix.
        seed: of the start.

    Raises:
        ConfigError: the model has no such layer or module.
    """
    from peft import LoraConfig, get_peft_model

    check_lora(module, lora)
    n_layers = module.config.num_hidden_layers
    tokens = None
    if flag_id is not None:
        # Untied heads need both matrices named: a bare list trains and saves the input row alone.
        ends = (
            [module.get_input_embeddings()] if tied else [module.get_input_embeddings(), module.get_output_embeddings()]
        )
        tokens = {name.rpartition(".")[2]: [flag_id] for name, m in module.named_modules() if any(m is e for e in ends)}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.targets),
        layers_to_transform=list(range(lora.first_layer, n_layers)) if lora.first_layer else None,
        trainable_token_indices=tokens,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    # peft draws its start from the global stream (ours replaces it below), and asks transformers by an old name.
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        peft = get_peft_model(module, config)
    generator = torch.Generator().manual_seed(int(stream(seed, "lora").integers(2**62)))
    with torch.no_grad():
        for name, parameter in sorted(peft.named_parameters()):
            if "lora_A" in name:
                start = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
                parameter.copy_(start)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return peft.eval()
