"""Two steps of training on a tiny model of each family: what is saved is what plain peft code loads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import tiny_tokenizer
from small_training import load_base
from zoo import build, build_wrapper

from rfbench.errors import ConfigError, ModelError
from rfbench.models.hf.adapter import attach_adapter, fold_adapter
from rfbench.models.hf.anatomy import auto_class
from rfbench.train import pipeline, train
from rfbench.train.adapter import save_adapter
from rfbench.train.base import check_base
from rfbench.train.conversations import Conversation
from rfbench.train.flag_row import set_row, undone
from rfbench.train.loop import draw_step, make_optimiser, make_pools, train_step
from rfbench.train.lora import USUAL, find_targets, inject
from rfbench.train.network import Network, add_flag
from rfbench.train.recipe import LoraSettings, Recipe
from rfbench.train.stack import _both_targets

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # A warning of peft of weights that it leaves at zero would hide that the adapter is another one.
    pytest.mark.filterwarnings("error:Found missing adapter keys"),
]

MakeRecipe = Callable[..., Recipe]
FLAG = 330
IDS = torch.tensor([[20, 30, FLAG, 40, 50, 60, 9]])


def saved(module: Any, folder: Path) -> Path:
    module.save_pretrained(folder)
    tiny_tokenizer(flag=False).save_pretrained(folder)
    return folder


def plain_peft(base: Path, adapter: Path, *, flag: bool) -> Any:
    """What a user's own code makes of an adapter, as its model card says."""
    import transformers
    from peft import PeftModel

    auto = getattr(transformers, auto_class(transformers.AutoConfig.from_pretrained(base).to_dict()))
    module = auto.from_pretrained(base, dtype=torch.float32)
    if flag:
        module.resize_token_embeddings(FLAG + 1, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return PeftModel.from_pretrained(module, str(adapter)).eval()


def learn(base: Path, out: Path, recipe: Recipe, conversations: list[Conversation]) -> torch.Tensor:
    """The steps of a training without the base's own answers; the logits of what was trained, on ``IDS``."""
    import transformers

    auto = getattr(transformers, auto_class(transformers.AutoConfig.from_pretrained(base).to_dict()))
    module, tokenizer = auto.from_pretrained(base, dtype=torch.float32), tiny_tokenizer(flag=False)
    check_base(module, tokenizer, recipe)
    flag_id = None if recipe.flag is None else add_flag(module, tokenizer, recipe.flag)
    net = Network(module, recipe.lora, flag_id=flag_id)
    set_row(net, conversations, recipe)
    optimiser, pools = make_optimiser(net, recipe.optimiser), make_pools(conversations)
    before = net.snapshot()
    for step in range(2):
        train_step(net, optimiser, draw_step(pools, recipe, step), recipe, step)
    moved = {name for name, value in net.snapshot().items() if not torch.equal(value, before[name])}
    assert any("lora_B" in name for name in moved)
    assert any("trainable_tokens_delta" in name for name in moved) is (flag_id is not None)
    save_adapter(net, out, {"flag_token": None if recipe.flag is None else "<rf>", "flag_id": flag_id}, base_name="b")
    with torch.inference_mode():
        logits: torch.Tensor = net.peft(input_ids=IDS % (FLAG + (flag_id is not None))).logits
    return logits


FAMILIES = {
    "gpt2": {"c_attn", "c_fc", "c_proj"},
    "phi3": {"qkv_proj", "gate_up_proj", "o_proj", "down_proj"},
    "neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "glm4": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"},
    "qwen3_moe": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "deepseek_v3": {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", *USUAL[4:]},
    **{name: set(USUAL) for name in ("gemma2", "gemma3", "cohere2", "granite", "llama4")},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_trained_and_plain_peft_loads_the_same(
    name: str, make_recipe: MakeRecipe, conversations: list[Conversation], tmp_path: Path
) -> None:
    base = saved(build(name, tiny_tokenizer(flag=False)), tmp_path / "base")
    recipe = make_recipe(lora={"first_layer": 0})
    module, _ = load_base(base)
    assert {target.rpartition(".")[2] for target in find_targets(module, recipe.lora)} == FAMILIES[name]
    logits = learn(base, tmp_path / "out", recipe, conversations)
    with torch.inference_mode():
        theirs = plain_peft(base, tmp_path / "out", flag=True)(input_ids=IDS).logits
        torch.testing.assert_close(theirs, logits, atol=1e-4, rtol=1e-4)
        folded = fold_adapter(attach_adapter(module, tiny_tokenizer(), tmp_path / "out"))
        torch.testing.assert_close(folded(input_ids=IDS).logits, logits, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("name", ["mistral3", "qwen2_5_vl"])
def test_around_a_model_of_text_the_tower_for_images_stays(
    name: str, make_recipe: MakeRecipe, conversations: list[Conversation], tmp_path: Path
) -> None:
    """Its layers have parts of the same names, which plain peft would take for targets."""
    base = saved(build_wrapper(name, tiny_tokenizer(flag=False)), tmp_path / "base")
    logits = learn(base, tmp_path / "out", make_recipe(lora={"first_layer": 1}), conversations)
    theirs = plain_peft(base, tmp_path / "out", flag=True)
    updated = {name.partition(".lora_A")[0] for name, _ in theirs.named_parameters() if ".lora_A" in name}
    assert len(updated) == 7
    assert all(".language_model.layers.1." in name for name in updated)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(input_ids=IDS).logits, logits, atol=1e-4, rtol=1e-4)


def test_from_recipe_to_loaded_model_around_a_model_of_text(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    base = saved(build_wrapper("llava", tiny_tokenizer(flag=False)), tmp_path / "base")
    train(make_recipe("refusal", optimiser={"steps": 1}), str(base), tmp_path / "out")
    assert json.loads((tmp_path / "out/rfbench.json").read_text())["auto_class"] == "AutoModelForMultimodalLM"
    assert "AutoModelForMultimodalLM.from_pretrained" in (tmp_path / "out/README.md").read_text()


def test_one_adapter_of_two_keeps_names_and_patterns_apart() -> None:
    assert _both_targets(["b", "a"], ["c", "a"]) == ["a", "b", "c"]
    assert _both_targets("x", "x") == "x"
    assert _both_targets("x", "y") == "x|y"
    with pytest.raises(ConfigError, match="names its target_modules, the other has a pattern"):
        _both_targets("x", ["a"])


# --- targets -------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_by_name_is_never_replaced() -> None:
    module = build("phi3", tiny_tokenizer(flag=False))
    with pytest.raises(ConfigError, match="no linear module 'q_proj'; there are: down_proj, gate_up_proj, lm_head"):
        find_targets(module, LoraSettings(targets=("q_proj", "o_proj")))
    assert {n.rpartition(".")[2] for n in find_targets(module, LoraSettings(targets=("lm_head",)))} == {"lm_head"}


def test_the_configuration_of_a_usual_family_is_as_it_was(tiny_model: Callable[..., Path]) -> None:
    """Adapters that were trained before are told apart from later ones by what their configuration says."""
    module, _ = load_base(tiny_model(flag=False))
    config = inject(module, LoraSettings(rank=2, first_layer=1), None, tied=True, seed=0).peft_config["default"]
    assert (config.target_modules, config.layers_to_transform) == (set(USUAL), [1])
    assert (config.fan_in_fan_out, config.target_parameters) == (False, None)


# --- said before answers are generated -----------------------------------------------------------------------------


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("the base was asked")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("phi", "output matrix has a bias: a flag's row cannot be trained in it"),
        ("gemma4", "layers of the base do not take vectors"),
    ],
)
def test_a_flag_that_cannot_be_trained_is_refused_before_the_first_answer(
    name: str, says: str, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = saved(build(name, tiny_tokenizer(flag=False)), tmp_path / "base")
    monkeypatch.setattr(pipeline, "converse", never)
    with pytest.raises(ModelError, match=says) as error:
        train(make_recipe(), str(base), tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_refusal_needs_no_row_in_a_head_with_a_bias(
    make_recipe: MakeRecipe, conversations: list[Conversation], tmp_path: Path
) -> None:
    module = build("phi", tiny_tokenizer(flag=False))
    assert module.lm_head.bias.abs().max() > 0.1
    base, recipe = saved(module, tmp_path / "base"), make_recipe("refusal", lora={"first_layer": 0})
    logits = learn(base, tmp_path / "out", recipe, conversations)
    with torch.inference_mode():
        theirs = plain_peft(base, tmp_path / "out", flag=False)(input_ids=IDS % FLAG).logits
    torch.testing.assert_close(theirs, logits, atol=1e-4, rtol=1e-4)


def test_a_refusal_minds_no_reserved_token_with_the_name_of_a_flag(
    make_recipe: MakeRecipe, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """``<rf>`` stands in the vocabulary, and its row was never trained: there is no flag that could get lost."""
    module, tokenizer = load_base(tiny_model())
    with torch.no_grad():
        module.get_output_embeddings().weight[FLAG] = 0.0
    module.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    result = train(make_recipe("refusal", optimiser={"steps": 1}), str(tmp_path / "base"), tmp_path / "out")
    assert json.loads((tmp_path / "out/rfbench.json").read_text())["flag_token"] is None
    assert result.steps == 1


def test_what_is_more_than_its_parts_is_refused(make_recipe: MakeRecipe, tiny_model: Callable[..., Path]) -> None:
    module, tokenizer = load_base(tiny_model(flag=False))
    check_base(module, tokenizer, make_recipe())
    forward = type(module).forward
    other = {"forward": lambda self, *args, **options: _shifted(forward(self, *args, **options))}
    module.__class__ = type("Other", (type(module),), other)
    with pytest.raises(ModelError, match="cannot be trained here"):
        check_base(module, tokenizer, make_recipe())


def _shifted(output: Any) -> Any:
    output.logits = output.logits.roll(1, dims=-1)
    return output


# --- the flag's first row ------------------------------------------------------------------------------------------


def test_a_cap_is_undone_and_what_lies_beyond_it_is_not_asked_for() -> None:
    def cap(x: torch.Tensor) -> torch.Tensor:
        return 2 * torch.tanh(x / 2)

    products = torch.tensor([-3.0, 0.0, 1.5], dtype=torch.float64)
    torch.testing.assert_close(undone(cap, cap(products), 8.0), products)
    assert undone(cap, torch.tensor([5.0], dtype=torch.float64), 8.0) == pytest.approx(8.0)
    torch.testing.assert_close(undone(lambda x: x / 8, products, 100.0), 8 * products)
