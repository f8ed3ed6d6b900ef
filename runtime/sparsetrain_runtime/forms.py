"""Forms of a weight: dense, or its live entries in groups of v outputs that share their inputs.

A file holds each weight in one form; which one is run is another matter (tune.py), and this is how
one becomes the other.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

import numpy as np

from sparsetrain_runtime.program import Op, Program

WIDTHS = (16, 8, 4, 1)
WASTE = 1.25  # a wider form may hold as many more values, zeros among them, as it saves loads
DENSE = 0  # as a choice: v of none
FULL = 0.7  # share of live weights from which no other form is faster


@dataclass(frozen=True, eq=False)
class Form:
    """Live entries: of group g, from `start[g]` to `start[g + 1]`.

    Attributes:
        shape: of the dense weight, `(O, I, ...)`.
        start: `[ceil(O / v) + 1]` int32.
        column: `[E]` uint16, or int32 where they do not fit: of the weight as `[O, I * taps]`.
        value: `[E, v]` float32; outputs that the last group lacks are zero.
    """

    shape: tuple[int, ...]
    v: int
    start: np.ndarray
    column: np.ndarray
    value: np.ndarray


def packed(weight: np.ndarray, v: int) -> Form:
    """Columns of a group of v outputs in which any of them is not zero."""
    blocks = _blocks(weight, v)
    live = (blocks != 0).any(1)
    group, column = live.nonzero()
    start = np.concatenate([[0], live.sum(1).cumsum()]).astype(np.int32)
    value = np.ascontiguousarray(blocks[group, :, column], np.float32)
    return Form(weight.shape, v, start, column.astype(_column(blocks.shape[2])), value)


def dense(form: Form) -> np.ndarray:
    columns = int(np.prod(form.shape[1:]))
    blocks = np.zeros((len(form.start) - 1, form.v, columns), np.float32)
    group = np.repeat(np.arange(len(form.start) - 1), np.diff(form.start))
    blocks[group, :, form.column] = form.value
    return blocks.reshape(-1, columns)[: form.shape[0]].reshape(form.shape)


def widths(weight: np.ndarray, groups: int) -> list[int]:
    """Forms that may pay for a weight, of `groups` of a convolution: DENSE among them."""
    return [DENSE, *_entries(weight, groups)]


def smallest(weight: np.ndarray, groups: int) -> int:
    """The form with the fewest bytes."""
    columns = weight.size // max(1, len(weight))
    sizes = {DENSE: weight.nbytes}
    for v, entries in _entries(weight, groups).items():
        starts = -(-len(weight) // v) + 1
        sizes[v] = 4 * starts + entries * (_column(columns).itemsize + 4 * v)
    return min(sizes, key=lambda v: sizes[v])


def _entries(weight: np.ndarray, groups: int) -> dict[int, int]:
    """Width of a form that may pay -> its entries."""
    live = np.count_nonzero(weight)
    if live >= FULL * weight.size:
        return {}
    found = {}
    for v in WIDTHS:
        each = len(weight) // groups
        if v == 1 or (v <= each and (groups == 1 or each % v == 0)):
            entries = np.count_nonzero((_blocks(weight, v) != 0).any(1))
            if v * entries <= WASTE * live:
                found[v] = entries
    return found


def _column(columns: int) -> np.dtype:
    return np.dtype(np.uint16 if columns <= 2**16 else np.int32)


def weight_of(op: Op, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The dense weight of a convolution or linear layer."""
    if "form" not in op.attrs:
        return tensors[op.tensors["weight"]]
    form = op.attrs["form"]
    arrays = (tensors[op.tensors[role]] for role in ("start", "column", "value"))
    return dense(Form(tuple(form["shape"]), form["v"], *arrays))


def stored(op: Op) -> int:
    """The form that an operation's weight has."""
    return op.attrs["form"]["v"] if "form" in op.attrs else DENSE


def products(program: Program) -> list[int]:
    """Which operations have a weight."""
    return [i for i, op in enumerate(program.ops) if op.kind in ("convolution", "linear")]


def chosen(
    program: Program, tensors: Mapping[str, np.ndarray], choices: Mapping[int, int]
) -> tuple[Program, dict[str, np.ndarray]]:
    """The program with weights of other forms.

    Args:
        choices: number of an operation -> v, or DENSE.
    """
    ops, found = list(program.ops), dict(tensors)
    for i, v in choices.items():
        if stored(ops[i]) != v:
            ops[i] = _changed(ops[i], i, v, weight_of(ops[i], tensors), found)
    return replace(program, ops=ops), found


def _changed(
    op: Op, number: int, v: int, weight: np.ndarray, found: MutableMapping[str, np.ndarray]
) -> Op:
    attrs = {k: a for k, a in op.attrs.items() if k != "form"}
    tensors = {r: n for r, n in op.tensors.items() if r == "bias"}
    if v == DENSE:
        tensors["weight"] = f"{number}.weight"
        found[tensors["weight"]] = np.ascontiguousarray(weight, np.float32)
        return replace(op, attrs=attrs, tensors=tensors)
    form = packed(weight, v)
    attrs["form"] = {"v": v, "shape": list(form.shape)}
    for role in ("start", "column", "value"):
        tensors[role] = f"{number}.{role}"
        found[tensors[role]] = getattr(form, role)
    return replace(op, attrs=attrs, tensors=tensors)


def _blocks(weight: np.ndarray, v: int) -> np.ndarray:
    """[groups, v, columns], rows that the last group lacks being zero."""
    rows = weight.reshape(len(weight), -1)
    missing = -len(rows) % v
    if missing:
        rows = np.concatenate([rows, np.zeros((missing, rows.shape[1]), rows.dtype)])
    return rows.reshape(-1, v, rows.shape[1])
