"""The protocol's names of types, and tensors as bytes (little endian, C order) and as JSON."""

import math
from itertools import chain
from typing import Any

import numpy as np

from sparsetrain.engine.serve.refusal import Refusal

NAMES = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"} | {
    f"{kind}{bits}": f"{kind}{bits}".upper() for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
JSON_TYPES = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}  # by numpy's kind


def name_of(dtype: str) -> str:
    return NAMES[np.dtype(dtype).name]


def from_bytes(data: memoryview, shape: tuple[int, ...], dtype: str, who: str) -> np.ndarray:
    """A view of `data`; of bools a copy, since other bytes than 0 and 1 are none."""
    wire = np.dtype(dtype).newbyteorder("<")
    needed = math.prod(shape) * wire.itemsize
    if len(data) != needed:
        raise Refusal(400, f"{who} needs {needed} bytes for {list(shape)}, got {len(data)}")
    found = np.frombuffer(data, np.uint8 if wire.kind == "b" else wire).reshape(shape)
    return found != 0 if wire.kind == "b" else found


def from_json(data: Any, shape: tuple[int, ...], dtype: str, who: str) -> np.ndarray:
    """Numbers in one list, or in lists of lists."""
    numbers = _flat(data, JSON_TYPES[np.dtype(dtype).kind], who)
    if len(numbers) != math.prod(shape):
        needed = math.prod(shape)
        raise Refusal(400, f"{who} needs {needed} numbers for {list(shape)}, got {len(numbers)}")
    try:
        with np.errstate(over="ignore"):  # what is too large is infinite
            return np.array(numbers, dtype).reshape(shape)
    except OverflowError as error:
        raise Refusal(400, f"{who} holds a number that is no {name_of(dtype)}") from error


def to_bytes(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _flat(data: Any, allowed: set[type], who: str) -> list[Any]:
    """numpy would take text for numbers, and reserve memory for the longest text a number."""
    if not isinstance(data, list):
        raise Refusal(400, f"{who} needs a list as its data")
    while (types := set(map(type, data))) == {list}:
        data = list(chain.from_iterable(data))
    if not types <= allowed:
        names = " or ".join(sorted(kind.__name__ for kind in allowed))
        got = ", ".join(sorted(kind.__name__ for kind in types - allowed))
        raise Refusal(400, f"{who} takes {names}, got {got}")
    return data
