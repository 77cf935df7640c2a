"""A module restored bit for bit at the end of a block, whatever was done to it inside."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_CONFIGS = ("config", "generation_config")
"""Attributes that hold settings, which merging and resizing write into."""


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Leave ``module`` bit for bit as it was, also when the body raises.

    Restored are parameters and buffers (content, storage, device, ``requires_grad``, gradients), and the structure:
    submodules, hooks, attributes, classes, train or eval mode, and what transformers keeps as configuration. Every
    module and tensor that was there is there again, the same object: ties between embeddings hold. A copy of the
    weights lies in the memory of the host meanwhile, and is freed on leaving.
    """
    tensors = [_TensorState.of(tensor) for tensor in _tensors(module)]
    structure = [_ModuleState.of(part) for part in module.modules()]
    settings = [(held, copy.deepcopy(vars(held))) for held in _settings(module)]
    try:
        yield
    finally:
        for part in structure:
            part.restore()
        for held, content in settings:
            vars(held).clear()
            vars(held).update(content)
        for tensor in tensors:
            tensor.restore()


def _tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, the non-persistent ones too, each once."""
    return [*module.parameters(), *module.buffers()]


def _settings(module: nn.Module) -> list[Any]:
    found = [held for part in module.modules() for name in _CONFIGS if (held := vars(part).get(name)) is not None]
    return list({id(held): held for held in found}.values())


@dataclass(frozen=True, slots=True)
class _TensorState:
    """One tensor: ``data`` shares its storage, so that it is found again when the tensor was given another."""

    tensor: Tensor
    data: Tensor
    content: Tensor
    requires_grad: bool
    grad: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> _TensorState:
        import torch

        grad = None if tensor.grad is None else tensor.grad.clone()
        # On the host: a second copy of the weights would fill the accelerator.
        content = tensor.detach().to("cpu", copy=True, memory_format=torch.preserve_format)
        return cls(tensor, tensor.data, content, tensor.requires_grad, grad)

    def restore(self) -> None:
        self.data.copy_(self.content)
        self.tensor.data = self.data
        self.tensor.requires_grad_(self.requires_grad)
        self.tensor.grad = self.grad


@dataclass(frozen=True, slots=True)
class _ModuleState:
    """One module without its tensors: class, attributes, and what its own containers held."""

    module: nn.Module
    kind: type
    attributes: dict[str, Any]
    containers: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> _ModuleState:
        attributes = dict(vars(module))
        containers = {name: copy.copy(held) for name, held in attributes.items() if isinstance(held, dict | set | list)}
        return cls(module, type(module), attributes, containers)

    def restore(self) -> None:
        self.module.__class__ = self.kind
        vars(self.module).clear()
        vars(self.module).update(self.attributes)
        # In place: handles of hooks refer to these very containers.
        for name, content in self.containers.items():
            held = self.attributes[name]
            held.clear()
            held.extend(content) if isinstance(held, list) else held.update(content)
