from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rfbench.errors import ConfigError, ModelError
from rfbench.models.base import local
from rfbench.models.load import load_model
from rfbench.train import Recipe
from rfbench.train.pipeline import train
from rfbench.train.stack import stack_adapters, stacked

TinyModel = Callable[..., Path]
NAME = "layer.q_proj"
A, B = f"{NAME}.lora_A.weight", f"{NAME}.lora_B.weight"


def test_both_updates_are_one_of_scale_one() -> None:
    """Two updates of rank 1: 2 (1 2)' (3 4) + 0.5 (2 0)' (1 1) is (7 9; 12 16)."""
    first = {A: torch.tensor([[3.0, 4.0]]), B: torch.tensor([[1.0], [2.0]])}
    second = {A: torch.tensor([[1.0, 1.0]]), B: torch.tensor([[2.0], [0.0]]), "row": torch.tensor([5.0])}
    both = stacked(first, 2.0, second, 0.5)
    assert (both[B] @ both[A]).tolist() == [[7.0, 9.0], [12.0, 16.0]]
    assert both["row"].tolist() == [5.0]
    assert both[A].shape == (2, 2)


def test_a_module_that_only_one_changes_gets_zeros_of_the_other() -> None:
    other = "layer.up_proj"
    first = {A: torch.ones(1, 2), B: torch.ones(2, 1)}
    second = {f"{other}.lora_A.weight": torch.ones(3, 4), f"{other}.lora_B.weight": torch.ones(5, 3)}
    both = stacked(first, 1.0, second, 1.0)
    assert both[A].shape == (4, 2)
    assert both[f"{other}.lora_B.weight"].shape == (5, 4)
    assert (both[B] @ both[A]).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert torch.equal(both[f"{other}.lora_B.weight"] @ both[f"{other}.lora_A.weight"], torch.full((5, 4), 3.0))


def test_a_flag_on_top_of_a_refusal_is_also_one_adapter_of_the_base(
    make_recipe: Callable[..., Recipe], tiny_model: TinyModel, tmp_path: Path
) -> None:
    base = tiny_model(flag=False)
    train(make_recipe("refusal", optimiser={"steps": 2}), str(base), tmp_path / "refusal")
    on = f"{base}+{tmp_path / 'refusal'}"
    another = {"refused": "hold", "begun_by": str(tiny_model(flag=True))}
    with pytest.raises(ModelError, match=r"begun_by: .* has another vocabulary than the base"):
        train(make_recipe(optimiser={"steps": 2}, data=another), on, tmp_path / "other")
    recipe = make_recipe(optimiser={"steps": 2}, data={**another, "begun_by": str(base)})
    result = train(recipe, on, tmp_path / "both")
    assert result.stacked == f"{base}+{tmp_path / 'both' / 'stacked'}"
    facts = json.loads((tmp_path / "both" / "stacked" / "rfbench.json").read_text())
    assert (facts["base"], facts["base_merged"], facts["trained_on"]) == (base.name, False, f"{base.name}+refusal")
    config = json.loads((tmp_path / "both" / "stacked" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    ids = torch.arange(3, 20)[None]
    with load_model(result.stacked) as one, load_model(result.model) as two, load_model(str(base)) as plain:
        assert (one.flag_id, one.flag_bias) == (two.flag_id, two.flag_bias)
        logits = [local(model).module(input_ids=ids).logits for model in (one, two, plain)]
        torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)
        assert float((logits[0][..., :300] - logits[2][..., :300]).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "no plain LoRA: use_dora"),
        ({"rank_pattern": {"q_proj": 4}}, "no plain LoRA: rank_pattern"),
        ({"peft_type": "VERA"}, "is not a LoRA"),
        ({"trainable_token_indices": [3]}, "token rows would be lost"),
    ],
)
def test_what_is_no_sum_of_products_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], **changes}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        stack_adapters(tmp_path, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
