"""A module leaves ``restored`` as it came, bit for bit and object for object."""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rfbench.attacks.weights.restore import restored
from rfbench.models.load import load_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

IDS = torch.arange(12)[None]


def fingerprint(module: nn.Module) -> str:
    """A hash over every bit of the weights, and over what else makes a module behave as it does."""
    sha = hashlib.sha256()
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        facts = (name, tensor.dtype, tuple(tensor.shape), tensor.requires_grad, tensor.grad is None, id(tensor))
        sha.update(repr((*facts, tensor.data_ptr())).encode())
        sha.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    for name, part in module.named_modules(remove_duplicate=False):
        hooks = [len(held) for attribute, held in vars(part).items() if "hooks" in attribute and held is not None]
        sha.update(repr((name, id(part), type(part), part.training, hooks, sorted(vars(part)))).encode())
    if hasattr(module, "config"):
        sha.update(repr((module.config.to_dict(), module.generation_config.to_dict())).encode())
    return sha.hexdigest()


@pytest.fixture
def module(tiny_model: Callable[..., Path], request: pytest.FixtureRequest) -> Any:
    with load_model(str(tiny_model(tied=getattr(request, "param", True)))) as model:
        yield model.module


def change_weights(module: Any) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.0 + 1e-3).add_(1.0)


def replace_data(module: Any) -> None:
    module.bfloat16()


def change_buffers(module: Any) -> None:
    for name, buffer in module.named_buffers():
        assert buffer.numel(), name
        buffer.add_(1)


def inject_lora(module: Any) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    peft = get_peft_model(module, config)
    peft(input_ids=IDS, labels=IDS).loss.backward()


def fold(module: Any) -> None:
    for part in module.modules():
        if hasattr(part, "merge"):
            part.merge()


def merge_lora(module: Any) -> None:
    inject_lora(module)
    fold(module)


def untie(module: Any) -> None:
    module.lm_head.weight = nn.Parameter(module.lm_head.weight.detach().clone())
    module.config.tie_word_embeddings = False
    module.generation_config.eos_token_id = 0


def grow(module: Any) -> None:
    module.resize_token_embeddings(module.config.vocab_size + 3, mean_resizing=False)


def hook(module: Any) -> None:
    module.model.layers[0].register_forward_hook(lambda part, inputs, output: None)
    module.model.layers[1].register_forward_pre_hook(lambda part, inputs: None)
    module.get_input_embeddings().register_buffer("extra", torch.ones(2))


def parametrise(module: Any) -> None:
    class Double(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    nn.utils.parametrize.register_parametrization(module.model.layers[0].mlp.up_proj, "weight", Double())


def train_all(module: Any) -> None:
    module.train().requires_grad_(True)
    module(input_ids=IDS, labels=IDS).loss.backward()


def override_forward(module: Any) -> None:
    module.model.layers[0].mlp.forward = lambda x: x


CHANGES = (
    change_weights,
    replace_data,
    change_buffers,
    inject_lora,
    merge_lora,
    untie,
    grow,
    hook,
    parametrise,
    train_all,
    override_forward,
)


@pytest.mark.parametrize("module", [True, False], indirect=True, ids=["tied", "untied"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_is_undone(module: Any, change: Callable[[Any], None]) -> None:
    with torch.inference_mode():
        logits = module(input_ids=IDS).logits
    before = fingerprint(module)
    with restored(module):
        change(module)
        assert fingerprint(module) != before
    assert fingerprint(module) == before
    with torch.inference_mode():
        assert torch.equal(module(input_ids=IDS).logits, logits)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_restored_also_when_the_body_raises(module: Any, error: type[BaseException]) -> None:
    before = fingerprint(module)

    def tamper() -> None:
        with restored(module):
            inject_lora(module)
            change_weights(module)
            raise error

    with pytest.raises(error):
        tamper()
    assert fingerprint(module) == before


def test_a_lora_that_was_folded_in_is_beside_the_weights_again(module: Any) -> None:
    inject_lora(module)
    logits = module(input_ids=IDS).logits
    with restored(module):
        fold(module)
    assert torch.equal(module(input_ids=IDS).logits, logits)
    assert not any(part.merged for part in module.modules() if hasattr(part, "merged"))


def test_blocks_nest(module: Any) -> None:
    before = fingerprint(module)
    with restored(module):
        change_weights(module)
        between = fingerprint(module)
        with restored(module):
            inject_lora(module)
        assert fingerprint(module) == between
    assert fingerprint(module) == before


@given(numbers=st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_odd_numbers_come_back_bit_for_bit(numbers: list[float]) -> None:
    module = nn.Linear(len(numbers), 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([numbers]))
    bits = module.weight.detach().view(torch.int32).clone()
    with restored(module), torch.no_grad():
        module.weight.add_(1.0)
    assert torch.equal(module.weight.detach().view(torch.int32), bits)


def test_a_hook_that_was_there_can_still_be_removed(module: Any) -> None:
    seen: list[int] = []
    handle = module.model.layers[0].register_forward_hook(lambda part, inputs, output: seen.append(1))
    with restored(module):
        handle.remove()
    module(input_ids=IDS)
    assert seen == [1]
    handle.remove()
    module(input_ids=IDS)
    assert seen == [1]


def test_nothing_is_kept_afterwards(module: Any) -> None:
    with restored(module):
        inject_lora(module)
        added = [weakref.ref(parameter) for name, parameter in module.named_parameters() if "lora" in name]
    assert added
    gc.collect()
    assert not [parameter for parameter in added if parameter() is not None]
