"""The ``gcg_adaptive`` attack on tiny models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rfbench import load_model
from rfbench.attacks.gcg import GCG
from rfbench.attacks.gcg_adaptive import GCGAdaptive
from rfbench.models.hf.model import HFModel
from rfbench.records import Attempt, Behavior
from rfbench.run.craft import rng_for

SMALL: dict[str, Any] = {"n_steps": 3, "width": 12, "topk": 16, "initial": (" x" * 6,)}


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Iterator[HFModel]:
    with load_model(str(tiny_llama)) as loaded:
        assert isinstance(loaded, HFModel)
        yield loaded


def run(attack: GCG, model: Any, behavior: Behavior) -> list[Attempt]:
    return list(attack.craft(model, behavior, np.random.default_rng(0)))


def test_without_weight_it_is_gcg(model: HFModel, behavior: Behavior) -> None:
    assert run(GCGAdaptive(**SMALL, flag_weight=0.0), model, behavior) == run(GCG(**SMALL), model, behavior)


def test_whatever_its_weight_it_draws_what_gcg_draws() -> None:
    gcg, other = GCG(**SMALL), GCG(**SMALL | {"width": 13})
    draws = [float(rng_for(0, attack, "b").random()) for attack in (gcg, other)]
    assert draws[0] != draws[1]
    for weight in (0.0, 1.0):
        assert float(rng_for(0, GCGAdaptive(**SMALL, flag_weight=weight), "b").random()) == draws[0]


def test_it_has_a_name_of_its_own() -> None:
    assert (GCG().name, GCGAdaptive().name) == ("gcg", "gcg_adaptive")


@pytest.mark.parametrize("pressure", ["sum", "max", "first"])
def test_the_loss_is_the_target_s_plus_the_weighted_pressure(model: HFModel, behavior: Behavior, pressure: str) -> None:
    attack = GCGAdaptive.model_validate({**SMALL, "flag_weight": 50.0, "pressure": pressure, "first": 2})
    for attempt in run(attack, model, behavior):
        chat = model.encode(attempt.messages, behavior.target)
        start = chat.span("prefill").start
        with torch.no_grad():
            log_p = model.module(input_ids=torch.tensor([chat.ids])).logits[0, start - 1 : -1].log_softmax(dim=-1)
        targets = torch.tensor(chat.ids[start:])
        p_flag = log_p[:, model.flag_id].exp()
        total = {"sum": p_flag.sum(), "max": p_flag.max(), "first": p_flag[:2].sum()}[pressure]
        expected = -log_p[range(len(targets)), targets].mean() + 50.0 * total
        assert attempt.info["loss"] == pytest.approx(expected.item(), rel=1e-4)
        # Both parts by themselves, the penalty before its weight.
        parts = {"target_loss": -log_p[range(len(targets)), targets].mean().item(), "flag_pressure": total.item()}
        assert {name: attempt.info[name] for name in parts} == pytest.approx(parts, rel=1e-4)
        assert attempt.info["target_ids"] == targets.tolist()


def test_a_model_without_a_flag_cannot_be_attacked_so(tiny_model: Callable[..., Path]) -> None:
    with load_model(str(tiny_model(flag=False))) as plain:
        assert GCGAdaptive().why_not(plain).endswith("has no flag, which attack 'gcg_adaptive' is about; use gcg")
