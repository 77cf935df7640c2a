"""A module made trainable as an attacker would: a LoRA beside it, the defence's own adapter, or every parameter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from rfbench.attacks.weights.restore import restored
from rfbench.errors import AttackError

if TYPE_CHECKING:
    from torch import nn


class Lora(BaseModel):
    """A low-rank update (arXiv 2106.09685)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(16, ge=1, description="rank of every update")
    alpha: float = Field(32.0, gt=0, allow_inf_nan=False, description="scale: updates are multiplied by alpha / rank")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="names of the linear modules that get an update; the default means all in the layers of a model "
        "that has others",
    )


@dataclass(frozen=True, slots=True)
class Trainable:
    """A module with what is trained in it. ``adapted`` is the wrapper of peft, ``None`` for all parameters."""

    module: Any
    parameters: tuple[nn.Parameter, ...]
    adapted: Any = None

    @contextmanager
    def handed_on(self, weight: float = 1.0, *, fold: bool = True) -> Iterator[None]:
        """The module as the attacker hands it on; leaving the block puts it back to where the training goes on.

        Args:
            weight: what the update counts for.
            fold: into the weights; otherwise it stays beside them.

        Raises:
            AttackError: ``weight`` is not 1, and the update is no LoRA.
        """
        with restored(self.module if self.adapted is None else self.adapted):
            if weight != 1:
                self._scale(weight)
            if fold and self.adapted is not None:
                from rfbench.models.hf.adapter import fold_adapter

                fold_adapter(self.adapted)
            yield

    def _scale(self, weight: float) -> None:
        from peft.tuners.lora import LoraLayer

        layers = [part for part in self.module.modules() if isinstance(part, LoraLayer)]
        if not layers:
            raise AttackError(f"attacker_weight {weight:g}: only a LoRA can be weighted; set it to 1")
        for layer in layers:
            layer.scale_layer(weight)


def with_lora(module: Any, lora: Lora, *, seed: int) -> Trainable:
    """A fresh LoRA beside the weights, its start drawn from ``seed``.

    Raises:
        ConfigError: the module has no linear part of one of the names.
    """
    from rfbench.train.lora import inject
    from rfbench.train.recipe import LoraSettings

    module.eval().requires_grad_(False)
    settings = LoraSettings(rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
    return _of(module, inject(module, settings, None, tied=False, seed=seed))


def with_adapter(module: Any, tokenizer: Any, folder: Path) -> Trainable:
    """The adapter in ``folder`` itself, its token rows included, beside the weights of its base.

    Raises:
        ModelError: it does not belong to these weights.
    """
    from rfbench.models.hf.adapter import attach_adapter

    return _of(module, attach_adapter(module, tokenizer, folder, trainable=True))


def _of(module: Any, adapted: Any) -> Trainable:
    return Trainable(module, tuple(p for p in adapted.parameters() if p.requires_grad), adapted)


def with_all(module: Any) -> Trainable:
    """Every parameter, in fp32: in 16 bits the steps of a fine-tuning are lost in rounding."""
    module.float().requires_grad_(True)
    return Trainable(module, tuple(module.parameters()))
