"""Programs as JSON, and back, with everything checked that a stranger may have written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sparsetrain_runtime.program import (
    ACTIVATIONS,
    BINARY,
    DTYPES,
    KINDS,
    REDUCTIONS,
    UNARY,
    VERSION,
    Op,
    Program,
    Value,
)

MOST = 2**40  # of any size
FORM = {"v": int, "shape": list}
FORM_TENSORS = ("start", "column", "value")


class ProgramError(ValueError):
    """A program that is not one; the message is one line."""


def to_json(program: Program) -> dict[str, Any]:
    return {
        "version": VERSION,
        "batch": program.batch,
        "inputs": program.inputs,
        "outputs": program.outputs,
        "values": [[v.dtype, list(v.shape)] for v in program.values],
        "ops": [
            {
                "kind": op.kind,
                "inputs": op.inputs,
                "output": op.output,
                "attrs": op.attrs,
                "tensors": op.tensors,
                "place": op.place,
            }
            for op in program.ops
        ],
    }


def from_json(given: Any, tensors: Mapping[str, Any]) -> Program:
    """The program of a file's header.

    Args:
        tensors: those of the file, by name.

    Raises:
        ProgramError: it is no program of this version.
    """
    _need(isinstance(given, dict), "the program is no object")
    _need(given.get("version") == VERSION, "the program is of another version")
    batch = given["batch"]
    _need(batch is None or _whole(batch, 1), "the batch is out of range")
    program = Program(batch=batch)
    for dtype, shape in given["values"]:
        _need(dtype in DTYPES, "a value's dtype is not known")
        _need(isinstance(shape, list) and len(shape) <= 8, "a value has too many axes")
        program.values.append(Value(tuple(_size(s) for s in shape), dtype))
    program.inputs = _named(given["inputs"], program)
    made = set(program.inputs.values())
    _need(len(made) == len(program.inputs), "two inputs are one value")
    for entry in given["ops"]:
        program.ops.append(_op(entry, program, tensors, made))
    program.outputs = _named(given["outputs"], program)
    _need(set(program.outputs.values()) <= made, "an output is never made")
    return program


def _named(given: Any, program: Program) -> dict[str, int]:
    _need(isinstance(given, dict) and given, "inputs and outputs need names")
    for value in given.values():
        _need(_whole(value, 0) and value < len(program.values), "a value is out of range")
    return dict(given)


def _op(entry: Any, program: Program, tensors: Mapping[str, Any], made: set[int]) -> Op:
    op = Op(
        entry["kind"],
        list(entry["inputs"]),
        entry["output"],
        {k: SIZED.get(k, _plain)(v) for k, v in entry["attrs"].items()},
        dict(entry["tensors"]),
        str(entry["place"]),
    )
    where = f"operation {len(program.ops)}"
    _need(op.kind in KINDS, f"{where}: kind {op.kind!r:.40} is not known")
    where += f", {op.kind}"
    spec = KINDS[op.kind]
    _need(spec.inputs[0] <= len(op.inputs) <= spec.inputs[1], f"{where}: wrong number of inputs")
    for value in op.inputs:
        _need(type(value) is int and value in made, f"{where}: it reads a value that is not made")
    _need(_whole(op.output, 0) and op.output < len(program.values), f"{where}: no such output")
    _need(op.output not in made, f"{where}: its output is made twice")
    made.add(op.output)
    _check_attrs(op, where)
    _check_tensors(op, tensors, where)
    return op


def _check_attrs(op: Op, where: str) -> None:
    spec = KINDS[op.kind].attrs
    given = {k: v for k, v in op.attrs.items() if k != "form"}
    _need(set(given) == set(spec), f"{where}: its attributes are not {sorted(spec)}")
    for name, kinds in spec.items():
        value = given[name]
        right = isinstance(value, kinds) and (type(value) is not bool or _takes(kinds, bool))
        _need(right, f"{where}: {name} is of another type")
        if isinstance(value, float):
            _need(name in ("value", "scale") or math.isfinite(value), f"{where}: {name}")
    _check_words(op, where)
    if "form" in op.attrs:
        form = op.attrs["form"]
        right = isinstance(form, dict) and set(form) == set(FORM)
        _need(right and op.kind in ("linear", "convolution"), f"{where}: form is not known")
        _need(form["v"] in (1, 4, 8, 16), f"{where}: v must be 1, 4, 8 or 16")
        _need(_sizes(form["shape"], len(form["shape"])), f"{where}: shape is out of range")


def _takes(kinds: type | tuple[type, ...], kind: type) -> bool:
    return kind in (kinds if isinstance(kinds, tuple) else (kinds,))


def _check_words(op: Op, where: str) -> None:
    """Names that attributes hold, and how many numbers."""
    a = op.attrs
    function = a.get("function") if op.kind == "unary" else a.get("activation")
    if function is not None:
        known = UNARY if op.kind == "unary" else {k: UNARY[k] for k in ACTIVATIONS}
        _need(function.get("kind") in known, f"{where}: its function is not known")
        for name in UNARY[function["kind"]]:
            number = function.get(name)
            right = number is None or isinstance(number, int | float)
            _need(right, f"{where}: {name} is no number")
    if op.kind == "binary":
        _need(a["kind"] in BINARY, f"{where}: kind is not known")
    if op.kind == "reduce":
        _need(a["kind"] in REDUCTIONS, f"{where}: kind is not known")
    if op.kind in ("pool", "adaptive_pool"):
        _need(a["kind"] in ("max", "average"), f"{where}: kind is not known")
    for name in ("stride", "padding", "dilation", "kernel"):
        if name in a:
            _need(_sizes(a[name], 2), f"{where}: {name} must be two sizes")
    for name in ("stride", "dilation", "kernel"):
        _need(name not in a or min(a[name]) >= 1, f"{where}: {name} must be at least 1")
    if "dtype" in a:
        _need(a["dtype"] in DTYPES, f"{where}: dtype is not known")


def _check_tensors(op: Op, tensors: Mapping[str, Any], where: str) -> None:
    roles = KINDS[op.kind].tensors
    if "form" in op.attrs:
        roles = (*FORM_TENSORS, *(r for r in roles if r != "weight"))
    needed = {r for r in roles if not r.endswith("?")}
    _need(needed <= set(op.tensors), f"{where}: it needs {sorted(needed)}")
    known = {r.removesuffix("?") for r in roles}
    _need(set(op.tensors) <= known, f"{where}: it has a tensor too many")
    for name in op.tensors.values():
        _need(isinstance(name, str) and name in tensors, f"{where}: a tensor is missing")


def _plain(value: Any) -> Any:
    """Lists of two that stand for sizes stay lists; numbers that are too large are refused."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, int) and not -MOST < value < MOST:
        raise ProgramError("a number is out of range")
    return value


def _sized(value: Any) -> Any:
    """Sizes, of which pairs become tuples, as `Size` has them."""
    if isinstance(value, list):
        return [tuple(_plain(v)) if isinstance(v, list) else _plain(v) for v in value]
    return _plain(value)


def _one_size(value: Any) -> Any:
    return tuple(_plain(value)) if isinstance(value, list) else _plain(value)


def _size(size: Any) -> int | tuple[int, int]:
    if isinstance(size, list):
        _need(len(size) == 2 and all(_whole(n, -MOST) for n in size), "a size is out of range")
        return size[0], size[1]
    _need(_whole(size, 0), "a size is out of range")
    return size


def _sizes(sizes: Any, count: int) -> bool:
    return isinstance(sizes, list) and len(sizes) == count and all(_whole(n, 0) for n in sizes)


def _whole(number: Any, least: int) -> bool:
    return type(number) is int and least <= number < MOST


def _need(right: Any, what: str) -> None:
    if not right:
        raise ProgramError(what)


SIZED = {"shape": _sized, "size": _sized, "start": _one_size, "stop": _one_size}
