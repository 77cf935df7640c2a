"""Where answers begin, in tables of records: what a model thinks first is none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

_NEVER = np.iinfo(np.int32).max


def answer_starts(rows: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Index of the first id of each answer, ``(r,)``; beyond all ids where it has not begun, 0 where unrecorded."""
    if "answer_start" not in rows:
        return np.zeros(len(rows), dtype=np.int64)
    return np.asarray(rows["answer_start"].astype("Int64").fillna(_NEVER), dtype=np.int64)


def answer_ids(rows: pd.DataFrame) -> list[Any]:
    """The generated ids of each row from the start of its answer on; what is no sequence stays as it is."""
    return [
        ids[start:] if hasattr(ids, "__getitem__") else ids
        for ids, start in zip(rows["completion_ids"], answer_starts(rows).tolist(), strict=True)
    ]


def flag_pos_in_answer(rows: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Ids of the answer before the first flag, ``(r,)``; below 0 where the flag stands in a thought, or is none."""
    flag_pos = np.asarray(rows["flag_pos"].fillna(-1), dtype=np.int64)
    return np.where(flag_pos < 0, -1, flag_pos - answer_starts(rows))
