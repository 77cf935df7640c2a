"""Packed weights give what the layers give, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from chats import INITIAL, TEMPLATE

from rfbench.attacks.suffix.draft import in_dtype
from rfbench.attacks.suffix.evaluator import Evaluator
from rfbench.attacks.suffix.layout import lay_out
from rfbench.attacks.suffix.objectives import cross_entropy
from rfbench.attacks.suffix.partial_draft import PartialDraft
from rfbench.attacks.suffix.ranking import rank_correlation
from rfbench.models.base import ChatModel
from rfbench.models.hf import cpu as packed_module
from rfbench.models.hf.cpu import PackedLinear, packed, packed_if_right
from rfbench.records import Behavior

needs_onednn = pytest.mark.skipif(not packed_module._works(), reason="this build of PyTorch has no oneDNN products")


def frozen_linear(*shape: int, bias: bool = True) -> torch.nn.Linear:
    return torch.nn.Linear(*shape, bias=bias).requires_grad_(False)


def products(module: torch.nn.Module) -> set[type]:
    """Kinds of linear layers in a model."""
    return {type(m) for m in module.modules() if isinstance(m, torch.nn.Linear | PackedLinear)}


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (3, 7, 24)])
def test_a_packed_layer_multiplies_and_adds(bias: bool, shape: tuple[int, ...]) -> None:
    linear = frozen_linear(24, 40, bias=bias)
    inputs = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(PackedLinear(linear.weight, linear.bias)(inputs), linear(inputs))


@needs_onednn
@pytest.mark.parametrize("shape", [(1, 24), (3, 7, 24)])
def test_gradients_go_back_through_it_to_the_inputs(shape: tuple[int, ...]) -> None:
    linear = frozen_linear(24, 40)
    layer = PackedLinear(linear.weight, linear.bias)
    inputs = torch.randn(shape, requires_grad=True)
    weights = torch.randn(40)
    for product in (layer(inputs), layer(inputs * 1.0)):  # the second finds the way back packed
        (ours,) = torch.autograd.grad((product @ weights).square().sum(), inputs)
        (theirs,) = torch.autograd.grad((linear(inputs) @ weights).square().sum(), inputs)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert not layer(inputs).requires_grad
    (first,) = torch.autograd.grad(layer(inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@needs_onednn
def test_modules_that_share_layers_share_their_layouts(loaded: Callable[..., ChatModel]) -> None:
    module = loaded().module  # type: ignore[attr-defined]
    known: dict[torch.nn.Linear, PackedLinear] = {}
    whole, body = packed(module, known), packed(module.get_decoder(), known)
    ours, theirs = ({m for m in part.modules() if isinstance(m, PackedLinear)} for part in (whole, body))
    assert theirs < ours == set(known.values())


@needs_onednn
@pytest.mark.parametrize("variant", [{}, {"tied": False, "style": "llama3"}, {"architecture": "mistral"}])
def test_the_same_logits_from_shared_parts_and_an_untouched_model(
    loaded: Callable[..., ChatModel], variant: dict[str, Any]
) -> None:
    module = loaded(**variant).module  # type: ignore[attr-defined]
    before = {name: id(p) for name, p in module.named_parameters()}
    reader = packed(module)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(reader(input_ids=ids).logits, module(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    assert products(reader) == {PackedLinear}
    assert products(module) == {torch.nn.Linear}
    assert reader.get_input_embeddings() is module.get_input_embeddings()
    assert {name: id(p) for name, p in module.named_parameters()} == before


@needs_onednn
def test_layers_that_somebody_listens_to_or_trains_are_left_alone() -> None:
    heard, replaced, trained = frozen_linear(4, 4), frozen_linear(4, 4), torch.nn.Linear(4, 4)
    heard.register_forward_hook(lambda *_: None)
    replaced.forward = lambda inputs: inputs  # type: ignore[method-assign]
    parts = {"heard": heard, "replaced": replaced, "trained": trained, "plain": frozen_linear(4, 4)}
    shadow = packed_module._shadow(torch.nn.ModuleDict(parts), {})._modules
    assert (shadow["heard"], shadow["replaced"], shadow["trained"]) == (heard, replaced, trained)
    assert type(shadow["plain"]) is PackedLinear


@pytest.mark.parametrize("multiplied", [True, False])
def test_weights_that_the_processor_does_not_multiply_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, multiplied: bool
) -> None:
    asked = []
    monkeypatch.setattr(packed_module, "multiplies", lambda *question: asked.append(question) or multiplied)
    monkeypatch.setattr(packed_module, "PackedLinear", lambda weight, bias: "packed")
    shadow = packed_module._shadow(frozen_linear(4, 4).bfloat16(), {})
    assert asked == [(torch.bfloat16, "cpu")]
    assert (shadow == "packed") is multiplied


def test_without_such_products_the_model_reads_itself(
    loaded: Callable[..., ChatModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise NotImplementedError("no such operator on this backend")

    module = loaded().module  # type: ignore[attr-defined]
    monkeypatch.setattr(PackedLinear, "forward", missing)
    assert packed(module) is module
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert packed(module) is module


@pytest.mark.parametrize("pack", [True, False])
def test_losses_and_draws_from_global_state_do_not_depend_on_it(
    loaded: Callable[..., ChatModel], behavior: Behavior, pack: bool
) -> None:
    model: Any = loaded()
    layout = lay_out(model, TEMPLATE, behavior, INITIAL, behavior.target)
    current = np.array(layout.suffix)
    state = torch.get_rng_state()
    evaluator = Evaluator(model.module, cross_entropy, pack=pack)
    losses = evaluator.score(layout, current[None], current).losses
    assert torch.equal(torch.get_rng_state(), state)
    ids = torch.tensor([layout.fill(layout.suffix)])
    with torch.no_grad():
        logits = model.module(input_ids=ids).logits[:, -len(layout.target) - 1 : -1]
    want = cross_entropy(logits, ids[:, -len(layout.target) :]).item()
    assert losses == pytest.approx([want], abs=1e-4)


def test_a_draft_in_another_dtype_ranks_nearly_as_the_model_does(
    loaded: Callable[..., ChatModel], behavior: Behavior
) -> None:
    model: Any = loaded()
    layout = lay_out(model, TEMPLATE, behavior, INITIAL, behavior.target)
    current = np.array(layout.suffix)
    candidates = np.tile(current, (40, 1))
    candidates[np.arange(40), np.arange(40) % len(current)] = np.random.default_rng(0).integers(10, 250, size=40)
    halved = in_dtype(model.module, "bfloat16")
    assert {p.dtype for p in halved.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    cheap, dear = (
        PartialDraft(Evaluator(module, cross_entropy), 3).score(layout, candidates, current).losses
        for module in (halved, model.module)
    )
    assert 0 < np.abs(cheap - dear).max() < 0.5
    assert rank_correlation(cheap, dear) > 0.95


# --- layers that do more with a product than read it ---------------------------------------------------------------


@needs_onednn
@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (2, 2, 3, 8)])
def test_a_product_may_be_changed_in_place(shape: tuple[int, ...]) -> None:
    plain = frozen_linear(8, 4)
    layer = PackedLinear(plain.weight, plain.bias)
    gradients = []
    for linear in (plain, layer):
        inputs = torch.arange(float(torch.Size(shape).numel())).reshape(shape).div(50).requires_grad_()
        product = linear(inputs)
        product *= 2
        product += 1
        product.square().sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


@needs_onednn
def test_packed_weights_that_give_something_else_are_not_used(
    loaded: Callable[..., ChatModel], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = loaded().module  # type: ignore[attr-defined]
    assert products(packed_if_right(module)) == {PackedLinear}
    multiply = PackedLinear.multiply
    for wrong in (lambda self, inputs: 1.1 * multiply(self, inputs), lambda self, inputs: inputs.no_such_thing):
        monkeypatch.setattr(PackedLinear, "multiply", wrong)
        monkeypatch.setattr(packed_module, "_works", lambda: True)
        assert packed_if_right(module) is module
    assert "packed weights give other logits or gradients; computing without" in caplog.text
    assert "packed weights are not borne" in caplog.text
