"""A processor that does not multiply 16-bit numbers is told from one that does, and said so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from rfbench import load_model
from rfbench.attacks.suffix.draft import in_dtype
from rfbench.models.hf.halfprecision import multiplies, warn_if_slow


def answer(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    for name in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: supported, raising=False)


@pytest.mark.parametrize("supported", [True, False])
def test_pytorch_is_asked_about_16_bits_on_a_cpu(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    answer(monkeypatch, supported)
    assert multiplies(torch.bfloat16, "cpu") is supported
    assert multiplies(torch.float16, torch.device("cpu")) is supported
    assert multiplies(torch.float32, "cpu")
    assert multiplies(torch.bfloat16, "cuda:1")


def test_a_build_that_cannot_tell_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfbench.models.hf.halfprecision._SUPPORTED", {torch.bfloat16: "_no_such_question"})
    assert multiplies(torch.bfloat16, "cpu")


def test_one_line_names_the_dtype_and_the_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer(monkeypatch, True)
    warn_if_slow(torch.bfloat16, "cpu", "dtype")
    assert not caplog.records
    answer(monkeypatch, False)
    warn_if_slow(torch.bfloat16, "cpu", "dtype")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "this processor does not multiply bfloat16: a step can take a hundred times as long; set dtype: float32"
    )


def test_models_and_drafts_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tiny_llama: Path
) -> None:
    answer(monkeypatch, False)
    model = load_model({"spec": str(tiny_llama), "dtype": "bfloat16"})
    assert [r.getMessage().endswith("set dtype: float32") for r in caplog.records].count(True) == 1
    caplog.clear()
    in_dtype(model.module, "bfloat16")  # type: ignore[attr-defined]
    assert caplog.records[-1].getMessage().endswith("set draft_dtype: float32")
