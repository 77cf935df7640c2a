"""What the tests of the training are made of: requests as files, a tiny base, conversations of random ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rfbench.train.conversations import Conversation


def write_requests(path: Path, kind: str, n: int, **more: Any) -> Path:
    rows = [
        {
            "behavior_id": f"{kind}-{i}",
            "prompt": f"{kind} {'ab' * (i % 3)} {i}",
            "target": f"Sure {i}",
            "is_harmful": kind == "bad",
            **more,
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load_base(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return module, AutoTokenizer.from_pretrained(folder)


def conversation(
    key: str, *, harmful: bool = True, start: int = 4, answer: int = 5, n_prefill: int = 0, seed: int = 0
) -> Conversation:
    ids = np.random.default_rng([seed, len(key), start, answer]).integers(3, 300, size=start + answer)
    return Conversation(
        key=key,
        behavior_id=key,
        labels=np.full(answer, 1 if harmful else -1, dtype=np.int8),
        ids=ids.astype(np.int32),
        start=start,
        n_prefill=n_prefill,
        user=(1, start - 1),
    )
