"""The parts that a causal language model of transformers is made of, whatever they are called in its family.

A model that also takes images or sounds is one as far as its text goes: the parts are then those of the text, and the
rest of it is left alone.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfbench.errors import ModelError

AUTO_CLASS = "AutoModelForCausalLM"
"""The class of transformers that loads a language model; see :func:`auto_class`."""


def auto_class(config: Mapping[str, Any]) -> str:
    """Name of the class of transformers that loads a model with this ``config.json`` so that it writes text.

    Raises:
        ModelError: transformers knows the type of the model, and has none.
    """
    from transformers.models.auto import configuration_auto, modeling_auto

    model_type = str(config.get("model_type"))
    if AUTO_CLASS in (config.get("auto_map") or {}) or model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AUTO_CLASS
    if model_type in modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return "AutoModelForMultimodalLM"
    if model_type in configuration_auto.CONFIG_MAPPING_NAMES:
        raise ModelError(
            "Unrecognized configuration class: transformers has none that writes text with a model of type "
            f"{model_type!r}"
        )
    return AUTO_CLASS  # which says what it makes of a type that nobody knows


def decoder(module: Any) -> Any:
    """What turns vectors into final hidden states: layers and norm, without the head."""
    found, head = module.get_decoder(), module.get_output_embeddings()
    if any(part is head for part in found.modules()):  # some families know no better than to name the whole
        found = next(part for part in module.children() if _holds(part, module.get_input_embeddings()))
    return found


def n_layers(module: Any) -> int | None:
    """How many layers the configuration names; ``None`` for a family that has other words for them."""
    return getattr(module.config.get_text_config(decoder=True), "num_hidden_layers", None)


def layers(module: Any) -> nn.ModuleList | None:
    """The layers of the decoder, in order; ``None`` where there is no list of as many as the configuration says."""
    n = n_layers(module)
    lists = (part for part in decoder(module).modules() if isinstance(part, nn.ModuleList) and len(part) == n)
    return next(lists, None)


def named_text_modules(module: Any) -> Iterator[tuple[str, Any]]:
    """Name and module of everything that text goes through, the head included: names as in ``module``."""
    body, head = decoder(module), module.get_output_embeddings()
    inside = {id(part) for part in body.modules()} | {id(head)}
    return ((name, part) for name, part in module.named_modules() if id(part) in inside)


def layer_number(name: str, listed: str) -> int | None:
    """The layer that a module called ``name`` is part of, ``listed`` being the name of their list; else ``None``."""
    found = re.match(rf"{re.escape(listed)}\.(\d+)\.", name)
    return None if found is None else int(found[1])


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Logits are what ``finish`` makes of ``head(body(scale * rows of the embedding))``.

    ``finish`` scales or caps them, number by number; ``None`` where nothing more is done.
    """

    embedding: Any
    scale: float
    body: Any
    head: Any
    finish: Callable[[Tensor], Tensor] | None

    @classmethod
    def of(cls, module: Any) -> Anatomy:
        """Take a causal language model apart.

        Raises:
            ModelError: it has no head.
        """
        embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
        if head is None:
            raise ModelError("the base has no output matrix")
        return cls(embedding, float(getattr(embedding, "embed_scale", 1.0)), decoder(module), head, finish_of(module))

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states to logits, ``(..., d) -> (..., v)``, fp32."""
        products: Tensor = self.head(hidden).float()
        return products if self.finish is None else self.finish(products)


def finish_of(module: Any) -> Callable[[Tensor], Tensor] | None:
    """What a causal language model makes of the products of its head, as a function of tensors of any shape.

    Found by the model's own forward pass, with its body taken out and a head that changes nothing. ``None`` where that
    changes nothing, or cannot be done.
    """
    shell = copy.copy(module)
    head, embedding = module.get_output_embeddings(), module.get_input_embeddings()
    shell._modules = {
        name: nn.Identity() if part is head else _Handed(part) if part and _holds(part, embedding) else part
        for name, part in module._modules.items()
    }

    def finish(products: Tensor) -> Tensor:
        # Of the class: an instance may have a forward of its own, that of accelerate's hooks, which knows the module.
        output = type(module).forward(shell, inputs_embeds=products.reshape(1, 1, -1), use_cache=False)
        logits: Tensor = output.logits
        return logits.reshape(products.shape)

    probe = torch.linspace(-64.0, 64.0, 9, device=head.weight.device)
    try:
        with torch.no_grad():
            changes = not torch.equal(finish(probe), probe)
    except Exception:  # forward passes are programs: they raise what they like
        changes = False
    return finish if changes else None


class _Handed(nn.Module):
    """In the place of a body: it gives back the vectors that it is given."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        object.__setattr__(self, "_body", body)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_body"), name)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        return _Output(inputs_embeds)


class _Output:
    """An output of a body of any family: final hidden states, and nothing of whatever else it may hold."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor | None:
        return None if index else self.last_hidden_state

    def __getattr__(self, name: str) -> None:
        return None


def _holds(part: Any, embedding: Any) -> bool:
    return any(inner is embedding for inner in part.modules())
