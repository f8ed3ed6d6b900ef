"""The body of an answer: JSON, with the outputs in it or as bytes behind it."""

import json
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from sparsetrain.engine.serve import datatypes
from sparsetrain.engine.serve.network import Arrays
from sparsetrain.engine.serve.request import Request

VERSION = "1"  # a file has no others


def encode(name: str, request: Request, outputs: Arrays) -> Response:
    """Of the network `name`; only what was asked for, in the order in which it was."""
    head: dict[str, Any] = {"model_name": name, "model_version": VERSION}
    if request.id is not None:
        head["id"] = request.id
    head["outputs"] = [_described(key, outputs[key], raw) for key, raw in request.outputs.items()]
    text = _json(head)
    blobs = [datatypes.to_bytes(outputs[key]) for key, raw in request.outputs.items() if raw]
    if not blobs:
        return Response(text, media_type="application/json")
    headers = {"inference-header-content-length": str(len(text))}
    return Response(b"".join([text, *blobs]), 200, headers, "application/octet-stream")


def _described(name: str, array: np.ndarray, binary: bool) -> dict[str, Any]:
    datatype = datatypes.name_of(array.dtype.name)
    found = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if binary:
        return found | {"parameters": {"binary_data_size": array.nbytes}}
    return found | {"data": np.ascontiguousarray(array).reshape(-1)}


def _json(head: dict[str, Any]) -> bytes:
    """orjson writes NaN and Inf as null; here they are NaN and Infinity, as they came."""
    data = [output["data"] for output in head["outputs"] if "data" in output]
    if all(np.isfinite(array).all() for array in data):
        return orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(head, default=np.ndarray.tolist).encode()
