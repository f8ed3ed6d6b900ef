"""A request to infer, from the bytes of its body.

A body is JSON, or JSON of as many bytes as the header Inference-Header-Content-Length says and then
tensors, each of `binary_data_size` bytes, in the order in which the JSON names them.
"""

from dataclasses import dataclass
from typing import Any

from sparsetrain.engine.serve import datatypes, json_text
from sparsetrain.engine.serve.network import Arrays, Signature
from sparsetrain.engine.serve.refusal import Refusal

MOST_AXES = 32


@dataclass(frozen=True)
class Request:
    """
    Attributes:
        id: what the client calls it.
        items: rows of the inputs.
        outputs: those that are asked for: whether as bytes.
        timeout: seconds, if the client sets a limit of its own.
    """

    id: str | None
    arrays: Arrays
    items: int
    outputs: dict[str, bool]
    timeout: float | None


def parse(body: bytes, json_bytes: int | None, signature: Signature) -> Request:
    """
    Args:
        json_bytes: how much of the body is JSON; None: all.

    Raises:
        Refusal: 400 for whatever is wrong with it, 413 for too much JSON.
    """
    if json_bytes is not None and not 0 < json_bytes <= len(body):
        raise Refusal(
            400,
            f"Inference-Header-Content-Length must be 1 to the body's {len(body)} bytes, "
            f"got {json_bytes}",
        )
    whole = memoryview(body)
    head = _object(json_text.parse(whole[:json_bytes], signature), "the request")
    blobs = None if json_bytes is None else _Blobs(whole[json_bytes:])
    arrays = _inputs(head, blobs, signature)
    if blobs and blobs.left:
        raise Refusal(400, f"the body has {blobs.left} bytes after those that the inputs name")
    asked = _outputs(head, signature)
    return Request(_id(head), arrays, signature.items(arrays), asked, _timeout(head))


class _Blobs:
    """The bytes after the JSON, taken from the front."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    @property
    def left(self) -> int:
        return len(self._data)

    def take(self, size: Any, who: str) -> memoryview:
        if type(size) is not int or not 0 <= size <= self.left:
            raise Refusal(
                400, f"{who} has binary_data_size {size!r}, and {self.left} bytes are left"
            )
        taken, self._data = self._data[:size], self._data[size:]
        return taken


def _inputs(head: dict[str, Any], blobs: _Blobs | None, signature: Signature) -> Arrays:
    found: Arrays = {}
    for given in _list(head, "inputs"):
        given = _object(given, "an input")
        name = _named(given, signature.inputs, f"{signature.name}: no input", found)
        found[name] = _tensor(given, name, blobs, signature)
    return found


def _tensor(given: dict[str, Any], name: str, blobs: _Blobs | None, signature: Signature) -> Any:
    dtype, who = signature.inputs[name].dtype, f"{signature.name}: input {name}"
    if given.get("datatype") != datatypes.name_of(dtype):
        wanted = datatypes.name_of(dtype)
        raise Refusal(400, f"{who} must be {wanted}, got {given.get('datatype')!r}")
    shape = _shape(given.get("shape"), who)
    signature.check_shape(name, shape)
    size = _parameters(given).get("binary_data_size")
    if size is None:
        return datatypes.from_json(given.get("data"), shape, dtype, who)
    if blobs is None:
        raise Refusal(400, f"{who} is binary, which needs Inference-Header-Content-Length")
    return datatypes.from_bytes(blobs.take(size, who), shape, dtype, who)


def _shape(given: Any, who: str) -> tuple[int, ...]:
    if not isinstance(given, list) or len(given) > MOST_AXES:
        raise Refusal(400, f"{who} needs its shape as a list")
    if not all(type(n) is int and 0 <= n < 2**31 for n in given):
        raise Refusal(400, f"{who} has a shape that is not of sizes: {given}")
    return tuple(given)


def _outputs(head: dict[str, Any], signature: Signature) -> dict[str, bool]:
    """All, unless the request names some."""
    binary = _parameters(head).get("binary_data_output") is True
    found: dict[str, bool] = {}
    for given in _list(head, "outputs") if "outputs" in head else []:
        given = _object(given, "an output")
        name = _named(given, signature.outputs, f"{signature.name}: no output", found)
        found[name] = _parameters(given).get("binary_data", binary) is True
    return found or dict.fromkeys(signature.outputs, binary)


def _named(given: dict[str, Any], known: Any, unknown: str, seen: Any) -> str:
    name = given.get("name")
    if not isinstance(name, str) or name not in known:
        raise Refusal(400, f"{unknown} is called {name!r}; there are {', '.join(known)}")
    if name in seen:
        raise Refusal(400, f"{name} comes twice")
    return name


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    found = _object(given.get("parameters") or {}, "parameters")
    for name in ("shared_memory_region", "classification"):
        if found.get(name):
            raise Refusal(400, f"the parameter {name} is not supported")
    return found


def _timeout(head: dict[str, Any]) -> float | None:
    """Triton's clients give microseconds; 0 is none."""
    given = _parameters(head).get("timeout")
    return given / 1e6 if type(given) is int and given > 0 else None


def _id(head: dict[str, Any]) -> str | None:
    given = head.get("id")
    if given is not None and not (isinstance(given, str) and given.isprintable()):
        raise Refusal(400, "the request's id must be printable text")
    return given


def _object(given: Any, what: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Refusal(400, f"{what} must be a JSON object, got {type(given).__name__}")
    return given


def _list(head: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(head.get(name), list):
        raise Refusal(400, f"the request needs {name} as a list")
    return head[name]
