"""Arrays in JSON: their shape, and their numbers in fp32 as base64."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def pack(array: npt.NDArray[Any]) -> dict[str, Any]:
    """An array of any shape as values that JSON can hold; ``float32`` is little-endian, row by row."""
    data = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return {"shape": list(array.shape), "float32": base64.b64encode(data).decode("ascii")}


def unpack(values: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """The inverse of :func:`pack`; the array may be written to."""
    data = np.frombuffer(base64.b64decode(values["float32"]), dtype="<f4")
    return data.astype(np.float32).reshape(values["shape"])
