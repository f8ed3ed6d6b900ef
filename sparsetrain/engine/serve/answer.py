"""The body of an answer: JSON, with the outputs in it or as bytes behind it."""

import json
import re
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from sparsetrain.engine.serve import datatypes
from sparsetrain.engine.serve.network import Arrays
from sparsetrain.engine.serve.refusal import Refusal
from sparsetrain.engine.serve.request import Request

VERSION = "1"  # a file has no others
LARGEST = 2**21  # numbers of an output as JSON: others wait while they are written


def encode(name: str, request: Request, outputs: Arrays) -> Response:
    """Of the network `name`; only what was asked for, in the order in which it was.

    Raises:
        Refusal: 400; an output is too large for JSON.
    """
    head: dict[str, Any] = {"model_name": name, "model_version": VERSION}
    if request.id is not None:
        head["id"] = request.id
    head["outputs"] = [_described(key, outputs[key], raw) for key, raw in request.outputs.items()]
    text = orjson.dumps(head)
    blobs = [datatypes.to_bytes(outputs[key]) for key, raw in request.outputs.items() if raw]
    if not blobs:
        return Response(text, media_type="application/json")
    headers = {"inference-header-content-length": str(len(text))}
    return Response(b"".join([text, *blobs]), 200, headers, "application/octet-stream")


def _described(name: str, array: np.ndarray, binary: bool) -> dict[str, Any]:
    datatype = datatypes.name_of(array.dtype.name)
    found: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if binary:
        return found | {"parameters": {"binary_data_size": array.nbytes}}
    return found | {"data": orjson.Fragment(_numbers(name, np.ascontiguousarray(array).ravel()))}


def _numbers(name: str, array: np.ndarray) -> bytes:
    """orjson writes what is not finite as null; here it is NaN or Infinity, as it came."""
    if array.size > LARGEST:
        count = f"output {name} has {array.size} numbers, and JSON {LARGEST} at most"
        raise Refusal(400, f"{count}: ask for bytes")
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    odd = iter(array[~np.isfinite(array)].tolist())
    return re.sub(rb"null", lambda found: json.dumps(next(odd)).encode(), text)
