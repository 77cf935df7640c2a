"""The defence of a fine-tuning service: its adapter is attached again after the customer's training.

The paper (arXiv 2502.16366) attaches the LoRA of the flag to a base that a customer has fine-tuned. Here an adapter, of
whatever kind, is what it makes of its base: the difference of the weights with it and without, tensor by tensor, and
for the flag, whose row replaces what stands there, the row itself. What a kind that is no sum (DoRA, arXiv 2402.09353)
makes of weights depends on them: there it is the difference that it makes to the weights it is attached to, as by peft.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfbench.errors import AttackError, ModelError
from rfbench.models.folders import ADAPTER_CONFIG, read_object
from rfbench.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rfbench.models.base import LocalModel


@dataclass(frozen=True, slots=True)
class Defence:
    """An adapter as differences of weights, in fp32 on the host, layers of peft that are no sums, and the flag's rows.

    Parameters are held by identity: they stay the same objects when a LoRA is put beside them or folded in. Only a tied
    head leaves its parameter to the embedding when a LoRA of its own is folded in, and is looked up in ``module``.
    """

    module: Any
    differences: tuple[tuple[nn.Parameter, Tensor], ...]
    rows: tuple[tuple[nn.Parameter, Tensor], ...]
    flag_id: int | None
    tied: bool
    layers: tuple[tuple[nn.Parameter, Any], ...] = ()

    def attach(self, weight: float = 1.0) -> None:
        """Add ``weight`` times the differences to the present weights, and set the flag's rows."""
        for parameter, difference in self.differences:
            for data in self._now(parameter):
                data.copy_(data.float() + weight * difference.to(data.device))
        for parameter, layer in self.layers:
            was = parameter.data.float().cpu()
            parameter.data.copy_(was + weight * (_merged(layer, was) - was))
        for parameter, row in self.rows:
            for data in self._now(parameter):
                data[self.flag_id] = row.to(data)

    def _now(self, parameter: nn.Parameter) -> list[Tensor]:
        """The present parameters for one of before: both for an embedding whose head was tied and no longer is."""
        ends = _vocabulary_matrices(self.module)
        untied = self.tied and any(parameter is end for end in ends)
        return [end.data for end in ends] if untied else [parameter.data]


def spec_of(model: LocalModel) -> ModelSpec:
    """How ``model`` was loaded.

    Raises:
        AttackError: not as BASE+ADAPTER: which part of it is the defence is unknown.
    """
    said: Any = model.describe().get("spec")
    spec = None if said is None else ModelSpec.parse(said)
    if spec is None or spec.adapter is None:
        raise AttackError(f"model {model.name!r} was not loaded as BASE+ADAPTER: there is no adapter to attach")
    return spec


def take_apart(model: LocalModel, *, detach: bool) -> Defence:
    """The adapter of ``model``, and with ``detach`` the model at its base's weights.

    The flag's row belongs to the vocabulary: it stays, also without the adapter, so that the token is known throughout.

    Raises:
        AttackError: the model was not loaded as BASE+ADAPTER.
        ModelError: the base cannot be loaded, or has other weights.
    """
    from rfbench.models.hf.load import adapter_folder, load_base

    spec = spec_of(model)
    base, folder = load_base(spec, offline=True), adapter_folder(spec, offline=True)
    assert folder is not None
    differences = []
    for parameter, value in _base_values(model, base):
        data = parameter.data
        if not bool((data == value).all()):
            differences.append((parameter, (data.float() - value.float()).cpu()))
            if detach:
                data.copy_(value)
    layers = _no_sums(model, base, folder)
    apart = {id(parameter) for parameter, _ in layers}
    flag_id, ends = model.flag_id, _vocabulary_matrices(model.module)
    rows = [] if flag_id is None else [(end, end.data[flag_id].clone()) for end in ends]
    sums = tuple((parameter, difference) for parameter, difference in differences if id(parameter) not in apart)
    return Defence(model.module, sums, tuple(rows), flag_id, tied=len(ends) == 1, layers=layers)


def _no_sums(model: LocalModel, base: Any, folder: Path) -> tuple[tuple[nn.Parameter, Any], ...]:
    """Layers of peft whose update is not added to the weights, each with the parameter of ``model`` that it changes.

    The matrices of the vocabulary are left out: an update of theirs counts as a difference always. ``base`` gets the
    adapter put into it, on the host.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    from rfbench.models.hf.adapter import attach_adapter

    said = read_object(folder / ADAPTER_CONFIG)
    if said.get("peft_type") == "LORA" and not said.get("use_dora"):
        return ()
    with torch.random.fork_rng():  # peft draws a start before it reads the file
        attach_adapter(base, model.tokenizer, folder)
    layers, ends = [], {id(end) for end in _vocabulary_matrices(model.module)}
    for name, layer in base.named_modules():
        is_sum = isinstance(layer, LoraLayer) and not any(layer.use_dora.values())
        if is_sum or not isinstance(layer, BaseTunerLayer) or isinstance(layer, TrainableTokensLayer):
            continue
        parameter = model.module.get_submodule(name).weight
        if id(parameter) not in ends:
            layers.append((parameter, layer.cpu().float()))
    return tuple(layers)


def _merged(layer: Any, weight: Tensor) -> Tensor:
    """What a layer of peft makes of a weight."""
    layer.get_base_layer().weight.data = weight.clone()
    layer.merge()
    layer.merged_adapters.clear()
    merged: Tensor = layer.get_base_layer().weight.data
    return merged


def _vocabulary_matrices(module: Any) -> list[nn.Parameter]:
    """The matrices of the vocabulary, once where they are tied."""
    ends = (module.get_input_embeddings().weight, module.get_output_embeddings().weight)
    return list({id(end): end for end in ends}.values())


def _base_values(model: LocalModel, base: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each parameter with the base's values, its own where the base has none: rows of added tokens, and the flag's."""
    ends = {id(end) for end in _vocabulary_matrices(model.module)}
    for name, parameter in model.module.named_parameters():
        try:
            theirs = base.get_parameter(name).detach().to(parameter.data)
        except AttributeError as error:
            raise ModelError(f"{model.name}: its base has no {name}; is it the base of this adapter?") from error
        value = theirs
        if id(parameter) in ends:
            value = parameter.detach().clone()
            n = min(len(value), len(theirs))
            value[:n] = theirs[:n]
            if model.flag_id is not None:
                value[model.flag_id] = parameter.detach()[model.flag_id]
        if value.shape != parameter.shape:
            raise ModelError(f"{model.name}: {name} is {tuple(parameter.shape)}, in its base {tuple(theirs.shape)}")
        yield parameter, value
