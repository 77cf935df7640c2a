"""What a loaded model must be, whatever its flag: finite ends, and ids that the embedding knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import tiny_tokenizer
from tokenizers import AddedToken
from zoo import build

from rfbench import load_model
from rfbench.errors import BrokenLogits, CanaryError
from rfbench.models.hf.model import HFModel
from rfbench.records import Attempt

ASKED = [Attempt("b", messages=[{"role": "user", "content": "Hi"}])]


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save(module: Any, tokenizer: Any) -> Path:
        module.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return save


@pytest.fixture
def model(save: Callable[..., Path]) -> Iterator[HFModel]:
    tokenizer = tiny_tokenizer()
    with load_model(str(save(build("llama", tokenizer, tie_word_embeddings=False), tokenizer))) as loaded:
        assert isinstance(loaded, HFModel)
        yield loaded


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize(("end", "what"), [("lm_head", "head"), ("model.embed_tokens", "input embedding")])
@pytest.mark.parametrize("flag", [None, "none"])
def test_one_broken_row_is_no_model(
    save: Callable[..., Path], end: str, what: str, number: float, flag: str | None
) -> None:
    tokenizer = tiny_tokenizer()
    module = build("llama", tokenizer, tie_word_embeddings=False)
    with torch.no_grad():
        module.get_submodule(end).weight[77, 3] = number
    folder = save(module, tokenizer)
    with pytest.raises(CanaryError) as error:
        load_model(str(folder), flag)
    assert str(error.value) == (
        f"{folder}: 1 rows of its {what} (weight) are not finite, the first is that of id 77: "
        "save or download the weights again"
    )


def test_large_numbers_in_16_bits_are_finite(save: Callable[..., Path]) -> None:
    tokenizer = tiny_tokenizer()
    module = build("llama", tokenizer, tie_word_embeddings=False).to(torch.bfloat16)
    with torch.no_grad():
        module.lm_head.weight[77] = 3e4  # their sum is beyond what 16 bits of another kind hold
    with load_model({"spec": str(save(module, tokenizer)), "dtype": "bfloat16"}) as model:
        assert model.flag_id is not None


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_one_column_of_logits_that_breaks_later_is_an_error(model: HFModel, number: float) -> None:
    with torch.no_grad():
        model.module.lm_head.weight[77, :] = number
    (completion,) = model.generate(ASKED, max_new_tokens=3)
    assert (completion.finish, "not finite" in completion.error) == ("error", True)
    with pytest.raises(BrokenLogits, match="not finite"):
        model.target_log_probs([(5, 6, 7)], [(8,)])
    with pytest.raises(BrokenLogits, match="not finite"):
        model.next_log_probs([(5, 6, 7)])


# --- ids beyond the embedding ------------------------------------------------------------------------------------


def grown(*tokens: str, special: bool = True) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    return tokenizer


def test_markers_of_the_template_beyond_the_embedding(save: Callable[..., Path]) -> None:
    tokenizer = grown("<turn>")
    tokenizer.chat_template = "{% for m in messages %}{{ '<turn>' + m['content'] }}{% endfor %}"
    folder = save(build("llama", tiny_tokenizer()), tokenizer)
    with pytest.raises(CanaryError) as error:
        load_model(str(folder))
    n = len(tiny_tokenizer())
    assert str(error.value) == (
        f"{folder}: the tokenizer knows ids up to {n}, the embedding has {n} rows, and chats hold '<turn>' (id {n}): "
        "the embedding was not resized after tokens were added, or the tokenizer belongs to another model"
    )


def test_words_that_a_user_may_type_beyond_the_embedding(save: Callable[..., Path]) -> None:
    folder = save(build("llama", tiny_tokenizer()), grown("lighthouse", special=False))
    with pytest.raises(CanaryError, match="chats hold 'lighthouse'"):
        load_model(str(folder))


def test_special_tokens_that_no_chat_becomes_may_lie_beyond(save: Callable[..., Path]) -> None:
    """Some families keep the placeholder of an image in the tokenizer of a model that reads text alone."""
    folder = save(build("llama", tiny_tokenizer()), grown("<image>"))
    with load_model(str(folder)) as model:
        (completion,) = model.generate(
            [Attempt("b", messages=[{"role": "user", "content": "<image>"}])], max_new_tokens=2
        )
        assert completion.error == ""
    with pytest.raises(CanaryError, match="chats hold '<image>'"):
        load_model({"spec": str(folder), "special_tokens": "raw"})


def test_a_tokenizer_of_another_model(save: Callable[..., Path]) -> None:
    folder = save(build("llama", tiny_tokenizer(), vocab_size=200), tiny_tokenizer())
    with pytest.raises(CanaryError, match="the embedding has 200 rows"):
        load_model(str(folder), "none")
