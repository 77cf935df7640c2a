from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from rfbench.models.hf.kv_cache import SlabCache, SlabLayer


@pytest.fixture(scope="module")
def module(tiny_model: Callable[..., Path]) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model()).eval()


def states(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator), torch.randn((*shape[:-1], 3), generator=generator)


def test_layer_returns_what_was_written_and_allocates_once() -> None:
    layer = SlabLayer(capacity=5)
    assert layer.get_seq_length() == 0
    keys, values = states(2, 1, 5, 4)
    layer.update(keys[:, :, :3], values[:, :, :3])
    room = layer.keys.data_ptr()
    for at in (3, 4):
        seen_keys, seen_values = layer.update(keys[:, :, at : at + 1], values[:, :, at : at + 1])
        assert layer.get_mask_sizes(1) == (at + 2, 0)
    assert layer.keys.data_ptr() == room
    torch.testing.assert_close(seen_keys, keys)
    torch.testing.assert_close(seen_values, values)  # values may be of another width than keys
    with pytest.raises(RuntimeError):
        layer.update(keys[:, :, :1], values[:, :, :1])  # full


def test_keeping_repeating_and_copying_rows() -> None:
    cache = SlabCache(2, capacity=4)
    keys, values = states(3, 1, 2, 4)
    for layer in range(2):
        cache.update(keys, values, layer)
    cache.keep_rows(torch.tensor([2, 0, 0]))
    assert cache.get_seq_length() == 2
    for layer in cache.layers:
        torch.testing.assert_close(layer.keys[:, :, :2], keys[[2, 0, 0]])
        torch.testing.assert_close(layer.values[:, :, :2], values[[2, 0, 0]])
    cache.keep_rows(torch.tensor([0]))
    copy = cache.copy_rows(3, capacity=9)
    cache.truncate(1)
    assert (cache.get_seq_length(), copy.get_seq_length()) == (1, 2)
    assert copy.layers[0].keys.shape == (3, 1, 9, 4)
    torch.testing.assert_close(copy.layers[1].values[:, :, :2], values[[2, 2, 2]])


def test_layers_that_hold_nothing_stay_empty() -> None:
    cache = SlabCache(2, capacity=4)
    cache.update(*states(1, 1, 2, 4), 0)
    cache.keep_rows(torch.tensor([0, 0]))
    copy = cache.copy_rows(2, 4) if cache.layers[0].keys.shape[0] == 1 else cache
    assert not copy.layers[1].is_initialized


@torch.inference_mode()
def test_the_model_computes_what_it_does_with_the_stock_cache(module: Any) -> None:
    ids = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(1))
    stock, slab = DynamicCache(config=module.config), SlabCache(module.config.num_hidden_layers, 12)
    for start, stop in ((0, 7), (7, 8), (8, 12)):
        expected = module(ids[:, start:stop], past_key_values=stock, use_cache=True).logits
        logits = module(ids[:, start:stop], past_key_values=slab, use_cache=True).logits
        torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(logits, module(ids).logits[:, 8:], rtol=1e-4, atol=1e-4)
