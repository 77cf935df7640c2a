"""Adapters folded into their base: what they compute, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rfbench.errors import CanaryError, ModelError
from rfbench.models.hf import adapter as merge
from rfbench.models.hf.model import HFModel
from rfbench.models.load import load_model
from rfbench.train.adapter import export

pytestmark = pytest.mark.filterwarnings("ignore")

TinyModel = Callable[..., Path]
FLAG = 330
IDS = torch.tensor([[FLAG, 20, 30, 3, 40, FLAG, 5, 5, 60, 3, FLAG]])
"""The tokens that are trained alone, 3 and the flag, at the start, within and at the end."""


def trained(base: Path, folder: Path, *, rows: int | None = None, **lora: Any) -> torch.Tensor:
    """Pretend to train an adapter for ``base`` and save it in ``folder``; the logits of the training's own model."""
    from peft import LoraConfig, get_peft_model

    module = AutoModelForCausalLM.from_pretrained(base)
    if rows is not None:
        module.resize_token_embeddings(rows, mean_resizing=False)
    settings = {"target_modules": ["q_proj", "v_proj"]} | lora
    adapted = get_peft_model(module, LoraConfig(r=4, task_type="CAUSAL_LM", **settings)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                noise = 0.3 * torch.randn(parameter.shape, generator=generator)
                # peft draws the start of a LoRA from the global generator, which other tests move.
                is_drawn = any(part in name for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"))
                parameter.copy_(noise if is_drawn else parameter + noise)
        logits: torch.Tensor = adapted(IDS).logits
    adapted.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return logits


def logits_of(spec: str, **settings: Any) -> torch.Tensor:
    with load_model({"spec": spec, **settings}) as model, torch.inference_mode():
        assert isinstance(model, HFModel)
        logits: torch.Tensor = model.module(IDS).logits
    return logits


def edit(adapter: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    change(weights)
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


def refused(spec: str, match: str, kind: type[Exception] = ModelError) -> None:
    with pytest.raises(kind, match=match) as error:
        load_model(spec)
    assert "\n" not in str(error.value)


APART = [
    {"trainable_token_indices": {"lm_head": [FLAG]}},
    {"trainable_token_indices": {"embed_tokens": [3], "lm_head": [FLAG]}},
    {"trainable_token_indices": {"embed_tokens": [FLAG, 3], "lm_head": [FLAG]}},
    {"modules_to_save": ["embed_tokens"]},
    {"modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"target_modules": ["q_proj", "lm_head"], "trainable_token_indices": {"embed_tokens": [FLAG]}},
    {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
]
TOGETHER = [
    {},
    {"trainable_token_indices": [FLAG]},
    {"trainable_token_indices": {"embed_tokens": [FLAG, 3]}},
    {"trainable_token_indices": {"embed_tokens": [FLAG], "lm_head": [FLAG]}},
    {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lora", [*APART, *TOGETHER], ids=repr)
def test_folded_logits_are_those_of_the_training(
    tiny_model: TinyModel, tmp_path: Path, lora: dict[str, Any], tied: bool
) -> None:
    """A row of the head alone, folded into a matrix that a tied base shares, once moved logits by 9.6."""
    if not tied and (lora.get("ensure_weight_tying") or lora.get("trainable_token_indices") == [FLAG]):
        pytest.skip("means the tied pair")
    base, adapter = tiny_model(tied=tied), tmp_path / "adapter"
    expected = trained(base, adapter, **lora)
    torch.testing.assert_close(logits_of(f"{base}+{adapter}"), expected, rtol=1e-3, atol=1e-3)
    if not tied:
        return  # nothing was shared that an export could share again
    export(f"{base}+{adapter}", tmp_path / "merged")
    torch.testing.assert_close(logits_of(str(tmp_path / "merged")), expected, rtol=1e-3, atol=1e-3)
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["tie_word_embeddings"] is (lora in TOGETHER)


def test_a_base_tied_by_its_configuration_shares_one_matrix_after_folding_too(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    base, adapter = tiny_model(), tmp_path / "adapter"
    trained(base, adapter, trainable_token_indices=[FLAG])
    with load_model(f"{base}+{adapter}") as model:
        assert isinstance(model, HFModel)
        assert model.module.get_input_embeddings().weight is model.module.get_output_embeddings().weight


# --- the check after folding -------------------------------------------------------------------------------------


def spoil_row(name: str, token: int) -> Callable[[Any], None]:
    def spoil(module: Any) -> None:
        end = module.get_input_embeddings() if name == "embed_tokens" else module.get_output_embeddings()
        end.weight.data[token] += 1.0

    return spoil


def spoil_layer(module: Any) -> None:
    module.model.layers[1].mlp.up_proj.weight.data[7] += 8.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_row("embed_tokens", 217), r"the embedding of token 217 by [\d.e+]+ deviations"),
        (spoil_row("lm_head", 217), r"the output row of token 217: its logits by [\d.e+]+ deviations"),
        (spoil_layer, r"the logits by [\d.e+-]+ deviations on average, that of token \d+ by [\d.e+]+"),
    ],
    ids=["embedding", "head", "layer"],
)
def test_a_fold_that_changes_anything_is_seen(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, says: str, dtype: str
) -> None:
    """One row among all, of a token that no adapter has touched: the check used to look at ids 0 to 15 and a mean."""
    base, adapter = tiny_model(tied=False), tmp_path / "adapter"
    trained(base, adapter)
    real = merge.fold_adapter

    def wrong(adapted: Any) -> Any:
        module = real(adapted)
        spoil(module)
        return module

    logits_of(f"{base}+{adapter}", dtype=dtype)
    monkeypatch.setattr(merge, "fold_adapter", wrong)
    with pytest.raises(CanaryError, match=f"folding adapter .* moves {says}") as error:
        logits_of(f"{base}+{adapter}", dtype=dtype)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


def test_an_export_that_computes_something_else_is_not_left_there(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedModel

    real = PreTrainedModel.save_pretrained

    def wrong(self: Any, *args: Any, **options: Any) -> None:
        self.get_output_embeddings().weight.data[9] += 1.0
        real(self, *args, **options)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", wrong)
    with pytest.raises(CanaryError, match=r"loading again moves the (embedding|output row) of token 9"):
        export(str(tiny_model()), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


# --- vocabularies that training changed --------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "lora", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}], ids=repr
)
def test_a_padded_base_is_cut_to_what_the_adapter_was_trained_on(
    tmp_path: Path, tiny_model: TinyModel, tied: bool, lora: dict[str, Any]
) -> None:
    """As Qwen's, resized to ``len(tokenizer)``, which made it smaller: peft then saves the vocabulary."""
    padded = AutoModelForCausalLM.from_pretrained(tiny_model(flag=False, tied=tied))
    padded.resize_token_embeddings(370, mean_resizing=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for end in (padded.get_input_embeddings(), padded.get_output_embeddings()):
            end.weight[FLAG:].normal_(0.0, 0.5, generator=generator)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    padded.save_pretrained(base)
    tiny_tokenizer(flag=False).save_pretrained(base)
    expected = trained(base, adapter, rows=FLAG + 1, **lora)
    got = logits_of(f"{base}+{adapter}")
    assert got.shape == expected.shape == (*IDS.shape, FLAG + 1)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_an_adapter_with_fewer_rows_than_its_tokenizer_has_tokens(tmp_path: Path, tiny_model: TinyModel) -> None:
    base, adapter = tiny_model(), tmp_path / "adapter"
    trained(base, adapter, modules_to_save=["embed_tokens", "lm_head"])

    def cut(weights: dict[str, torch.Tensor]) -> None:
        for key in [key for key in weights if weights[key].shape[0] == FLAG + 1]:
            weights[key] = weights[key][:300].clone()

    edit(adapter, cut)
    refused(f"{base}+{adapter}", "brings a vocabulary of 300 rows, its tokenizer has 331 tokens; put the tokenizer")


# --- weights that the configuration does not name ----------------------------------------------------------------

Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def more_lora(weights: dict[str, torch.Tensor]) -> None:
    for half in ("A", "B"):
        weights[f"base_model.model.model.layers.0.self_attn.o_proj.lora_{half}.weight"] = torch.ones(
            (4, 32) if half == "A" else (32, 4)
        )


def a_weight_of_the_base(weights: dict[str, torch.Tensor]) -> None:
    weights["base_model.model.model.layers.1.mlp.up_proj.weight"] = torch.ones(64, 32)


def a_norm_of_the_base(weights: dict[str, torch.Tensor]) -> None:
    weights["base_model.model.model.norm.weight"] = torch.full((32,), 2.0)


def another_embedding(weights: dict[str, torch.Tensor]) -> None:
    weights["base_model.model.model.embed_tokens.weight"] = torch.ones(FLAG + 1, 32)


def other_rows_of_the_head(weights: dict[str, torch.Tensor]) -> None:
    weights["base_model.model.lm_head.token_adapter.trainable_tokens_delta"] = torch.ones(1, 32)


def without_its_prefix(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.0.self_attn.k_proj.lora_A.weight"] = torch.ones(4, 32)


@pytest.mark.parametrize(
    ("add", "says"),
    [
        (more_lora, r"2 weights .* dropped, the first is model\.layers\.0\.self_attn\.o_proj\.lora_A"),
        (a_weight_of_the_base, r"1 weights .* differ from those of this base, the first is .*up_proj\.weight"),
        (a_norm_of_the_base, r"1 weights .* differ from those of this base, the first is model\.norm\.weight"),
        (another_embedding, r"1 weights .* differ from those of this base, the first is .*embed_tokens\.weight"),
        (other_rows_of_the_head, r"1 weights .* dropped, the first is lm_head\.token_adapter"),
        (without_its_prefix, r"1 weights .* dropped, the first is model\.layers\.0\.self_attn\.k_proj"),
    ],
)
def test_weights_that_the_configuration_does_not_name_are_an_error(
    tiny_model: TinyModel, tmp_path: Path, add: Callable[[dict[str, torch.Tensor]], None], says: str
) -> None:
    """peft drops them, or puts them over weights of the base, without a word."""
    base, adapter = tiny_model(), tmp_path / "adapter"
    trained(base, adapter)
    edit(adapter, add)
    refused(f"{base}+{adapter}", f"holds {says}.*adapter_config.json of its training")


def test_a_configuration_that_names_less_than_was_trained(tiny_model: TinyModel, tmp_path: Path) -> None:
    base, adapter = tiny_model(), tmp_path / "adapter"
    trained(base, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    refused(f"{base}+{adapter}", r"holds 4 weights .* dropped, the first is .*v_proj\.lora_A")


@pytest.mark.parametrize(
    "lora", [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": {"lm_head": [FLAG]}}], ids=repr
)
def test_a_module_that_the_file_lacks(tiny_model: TinyModel, tmp_path: Path, lora: dict[str, Any]) -> None:
    base, adapter = tiny_model(tied=False), tmp_path / "adapter"
    trained(base, adapter, **lora)
    edit(adapter, lambda weights: [weights.pop(key) for key in list(weights) if "lm_head" in key] and None)
    refused(f"{base}+{adapter}", "lacks weights that its configuration promises")


def test_what_an_adapter_may_bring_of_its_base(tiny_model: TinyModel, tmp_path: Path) -> None:
    """The vocabulary, as peft saves it after a resizing, in 16 bits too; and the same rows twice where it is tied."""
    base, adapter = tiny_model(), tmp_path / "adapter"
    expected = trained(base, adapter)
    matrix = load_file(base / "model.safetensors")["model.embed_tokens.weight"].bfloat16()
    names = ("model.embed_tokens", "lm_head")
    edit(adapter, lambda weights: weights.update({f"base_model.model.{n}.weight": matrix.clone() for n in names}))
    torch.testing.assert_close(logits_of(f"{base}+{adapter}"), expected, rtol=0.1, atol=0.2)
    other = matrix.clone()
    other[FLAG] = 0
    edit(adapter, lambda weights: weights.update({"base_model.model.lm_head.weight": other}))
    refused(f"{base}+{adapter}", "brings an embedding and a head that differ, and its base ties the two")


def test_trained_biases_are_named_by_the_configuration(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    module = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), attention_bias=True, **shape))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.5, generator=generator)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    module.save_pretrained(base)
    tokenizer.save_pretrained(base)
    expected = trained(base, adapter, bias="all")
    assert any(key.endswith(".bias") for key in load_file(adapter / "adapter_model.safetensors"))
    torch.testing.assert_close(logits_of(f"{base}+{adapter}"), expected, rtol=1e-3, atol=1e-3)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"bias": "none"}))
    refused(f"{base}+{adapter}", r"differ from those of this base, the first is .*\.bias")
