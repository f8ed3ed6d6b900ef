"""The JSON of a request: looked at before it is parsed, since nothing else runs while it is.

A parser keeps the interpreter to itself. So there is a largest text, and no more numbers, lists and
objects in it than a request for this network can have.
"""

import json
import math
from typing import Any

import orjson

from sparsetrain.engine.serve.network import Signature
from sparsetrain.engine.serve.refusal import Refusal

LARGEST = 16 * 2**20  # bytes; more goes faster as bytes anyway
LARGEST_LOOSE = 4 * 2**20  # of those that the slower parser reads
OBJECTS = 1000  # inputs, outputs and their parameters, and what stands in them


def parse(given: memoryview, signature: Signature) -> Any:
    """
    Raises:
        Refusal: 400 or 413; it is too large, or not JSON.
    """
    if len(given) > LARGEST:
        raise Refusal(
            413, f"a request has {LARGEST} bytes of JSON at most; larger tensors come as bytes"
        )
    text = bytes(given)
    _check_counts(text, signature)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _loosely(text, error)


def _check_counts(text: bytes, signature: Signature) -> None:
    shapes = [
        [signature.most if n is None else n for n in spec.shape]
        for spec in signature.inputs.values()
    ]
    most = {
        b",": OBJECTS + sum(map(math.prod, shapes)),
        b"[": OBJECTS + 2 * sum(math.prod(shape[:-1]) for shape in shapes),
        b"{": OBJECTS,
    }
    for mark, count in most.items():
        if text.count(mark) > count:
            raise Refusal(400, f"{signature.name}: the request has more values than the inputs")


def _loosely(text: bytes, error: ValueError) -> Any:
    """NaN and Infinity are numbers to most clients, not to JSON."""
    odd = b"NaN" in text or b"Infinity" in text
    try:
        if odd and len(text) <= LARGEST_LOOSE:
            return json.loads(text)
    except (ValueError, RecursionError) as other:
        raise Refusal(400, f"the request is not JSON: {other}") from other
    raise Refusal(400, f"the request is not JSON: {error}") from error
