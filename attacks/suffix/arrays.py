"""Arrays inside saved progress: as values that JSON can hold, exactly."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def pack(array: Array) -> dict[str, Any]:
    """An array in fp32, of any shape, as a shape and its numbers in base64."""
    data = np.ascontiguousarray(array, dtype=np.float32).tobytes()
    return {"shape": list(array.shape), "float32": base64.b64encode(data).decode("ascii")}


def unpack(values: Mapping[str, Any]) -> Array:
    """The inverse of :func:`pack`; the array may be written to."""
    return np.frombuffer(base64.b64decode(values["float32"]), dtype=np.float32).reshape(values["shape"]).copy()
