"""A LoRA put into a model by peft, with a start that a seed decides."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from rfbench.errors import ConfigError
from rfbench.models.hf.anatomy import layer_number, layers, n_layers, named_text_modules
from rfbench.train.batches import stream
from rfbench.train.recipe import LoraSettings

logger = logging.getLogger(__name__)

USUAL = LoraSettings().targets
"""What is asked for where nothing is: of a family that names its parts otherwise, it means all of its layers' parts."""


def find_targets(module: Any, lora: LoraSettings) -> tuple[str, ...]:
    """Names, as in ``module``, of the linear modules that get an update.

    Raises:
        ConfigError: the model has no such layer or module.
    """
    n = n_layers(module)
    if n is None:
        raise ConfigError(f"the configuration of a {type(module).__name__} names no number of layers: it gets no LoRA")
    if lora.first_layer >= n:
        raise ConfigError(f"lora.first_layer is {lora.first_layer}, but the base has {n} layers, from 0")
    linear = [name for name, part in named_text_modules(module) if is_linear(part)]
    listed = _name_of_layers(module)
    numbers = {name: None if listed is None else layer_number(name, listed) for name in linear}
    known = {_last(name) for name in linear}
    wanted = set(lora.targets)
    if lora.targets == USUAL and not wanted <= known:
        wanted = {_last(name) for name in linear if numbers[name] is not None}
        logger.info("updates go to all linear modules of the layers: %s", ", ".join(sorted(wanted)))
    if unknown := sorted((wanted or set(USUAL)) - known):
        raise ConfigError(
            f"lora.targets: the base has no linear module {unknown[0]!r}; there are: {', '.join(sorted(known))}"
        )
    first = lora.first_layer
    return tuple(
        name
        for name in linear
        if _last(name) in wanted and (not first or ((number := numbers[name]) is not None and number >= first))
    )


def is_linear(part: Any) -> bool:
    """Whether a module is a matrix product, of which GPT-2 has its own kind."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(part, nn.Linear | Conv1D)


def _name_of_layers(module: Any) -> str | None:
    found = layers(module)
    return next((name for name, part in module.named_modules() if part is found), None) if found is not None else None


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _as_peft_names_them(module: Any, targets: Iterable[str], lora: LoraSettings) -> dict[str, Any]:
    """Settings of a ``LoraConfig`` for these targets and no others.

    Last names do, as peft takes all modules of a name; where others have these names, too (in the layers of a tower for
    images), a pattern says which are meant.
    """
    targets = tuple(targets)
    names = {_last(name) for name in targets}
    linear = {name for name, part in named_text_modules(module) if is_linear(part)}
    if any(_last(name) in names for name, _ in module.named_modules() if name not in linear):
        return {"target_modules": "|".join(_patterns(module, targets))}
    return {
        "target_modules": list(lora.targets) if names == set(lora.targets) else sorted(names),
        "layers_to_transform": list(range(lora.first_layer, n_layers(module) or 0)) if lora.first_layer else None,
    }


def _patterns(module: Any, targets: tuple[str, ...]) -> list[str]:
    """Regular expressions that fit the full names of ``targets`` alone, one for those in layers."""
    listed = _name_of_layers(module)
    numbers = {name: None if listed is None else layer_number(name, listed) for name in targets}
    apart = [re.escape(name) for name, number in numbers.items() if number is None]
    inside = sorted({_last(name) for name, number in numbers.items() if number is not None})
    if listed is None or not inside:
        return apart
    which = "|".join(map(str, sorted({number for number in numbers.values() if number is not None})))
    return [rf"{re.escape(listed)}\.(?:{which})\.(?:.*\.)?(?:{'|'.join(inside)})", *apart]


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

    targets = find_targets(module, lora)
    parts = dict(module.named_modules())
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        **_as_peft_names_them(module, targets, lora),
        fan_in_fan_out=not any(isinstance(parts[name], nn.Linear) for name in targets),
        trainable_token_indices=_trained_rows(module, flag_id, tied=tied),
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


def _trained_rows(module: Any, flag_id: int | None, *, tied: bool) -> dict[str, list[int]] | None:
    """What peft is told of the flag's rows: untied heads need both matrices named, a bare list trains the input row."""
    if flag_id is None:
        return None
    ends = [module.get_input_embeddings()] if tied else [module.get_input_embeddings(), module.get_output_embeddings()]
    return {_last(name): [flag_id] for name, part in module.named_modules() if any(part is end for end in ends)}
