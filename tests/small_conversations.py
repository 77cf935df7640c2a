"""Conversations of given ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rfbench.train.conversations import Conversation


def conversation(key: str, ids: Sequence[int], start: int, *, harmful: bool = True) -> Conversation:
    return Conversation(
        key=key,
        behavior_id=key,
        labels=np.full(len(ids) - start, 1 if harmful else -1, dtype=np.int8),
        ids=np.asarray(ids, dtype=np.int32),
        start=start,
        n_prefill=0,
        user=(0, start),
    )
