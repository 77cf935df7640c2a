"""A direction removed from everything that writes to the residual stream (arXiv 2406.11717, section 2.4).

Two ways to the same model: activations are changed by hooks as they come (directional ablation), or the weights once
(weight orthogonalisation). Letters: ``d`` width, ``v`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rfbench.attacks.weights.restore import restored
from rfbench.errors import AttackError

Edit = Literal["weights", "activations"]

WRITERS = ("o_proj", "down_proj")
"""Names of the linear maps that end attention and MLP, one of each per layer."""


def project_out(values: Tensor, vector: Tensor) -> Tensor:
    """``values`` ``(..., d)`` without their part along the unit direction ``vector`` ``(d,)``, of the same dtype."""
    exact = values.double() if values.dtype == torch.float64 else values.float()
    unit = vector.to(exact)
    return (exact - (exact @ unit)[..., None] * unit).to(values.dtype)


def layers(module: Any) -> nn.ModuleList:
    """The layers of a decoder, in order.

    Raises:
        AttackError: there is no list of as many modules as its configuration says.
    """
    n_layers = getattr(module.config.get_text_config(decoder=True), "num_hidden_layers", None)
    for part in module.modules():
        if isinstance(part, nn.ModuleList) and len(part) == n_layers:
            return part
    raise AttackError(
        f"{type(module).__name__} holds no list of its layers ({n_layers}): its architecture is not known"
    )


def writers(module: Any) -> list[nn.Linear]:
    """The linear maps that write to the residual stream, beside the input embedding.

    Raises:
        AttackError: they do not have the names known here, or are quantised.
    """
    found = [
        part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and name.rpartition(".")[2] in WRITERS
    ]
    n_layers = len(layers(module))
    if len(found) != len(WRITERS) * n_layers:
        raise AttackError(
            f"{type(module).__name__}: {len(found)} linear maps are called {' or '.join(WRITERS)}, not one of each in "
            f"{n_layers} layers: what writes to the residual stream is not known for this architecture"
        )
    if not all(part.weight.is_floating_point() for part in found):
        raise AttackError(f"{type(module).__name__} is quantised: its weights cannot be edited; load it unquantised")
    return found


@contextmanager
def removed(module: Any, vector: Tensor, edit: Edit) -> Iterator[None]:
    """While it lasts, nothing writes the unit direction ``vector`` ``(d,)`` to the residual stream of ``module``.

    Leaving restores the module bit for bit.

    Raises:
        AttackError: as for :func:`writers`.
    """
    with ExitStack() as stack:
        if edit == "activations":
            stack.enter_context(without_direction(module, vector))
        else:
            stack.enter_context(restored(module))
            orthogonalise(module, vector)
        yield


@contextmanager
def without_direction(module: Any, vector: Tensor) -> Iterator[None]:
    """Directional ablation: hooks take ``vector`` ``(d,)`` out of what is written to the residual stream.

    Raises:
        AttackError: as for :func:`writers`.
    """

    def hook(part: nn.Module, arguments: object, output: Tensor) -> Tensor:
        return project_out(output, vector)

    parts = [module.get_input_embeddings(), *writers(module)]
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.register_forward_hook(hook).remove)
        yield


@torch.no_grad()
def orthogonalise(module: Any, vector: Tensor) -> None:
    """Weight orthogonalisation: ``W <- W - r r^T W`` for all that writes to the residual stream, in place.

    A head that shares its matrix with the input embedding gets one of its own first: it reads the stream and does not
    write to it, and would read it differently otherwise.

    Args:
        module: a causal language model.
        vector: the unit direction ``r`` ``(d,)``.

    Raises:
        AttackError: as for :func:`writers`.
    """
    linear = writers(module)
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
        module.config.tie_word_embeddings = False
    embedding.weight.copy_(project_out(embedding.weight, vector))  # (v, d)
    for part in linear:
        part.weight.copy_(project_out(part.weight.T, vector).T)  # (d, inputs)
        if part.bias is not None:
            part.bias.copy_(project_out(part.bias, vector))
