"""Writes operations into a program: what rules are given to say what their step computes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsetrain.engine.lower.item import Item, dtype_of
from sparsetrain.engine.lower.sizes import Size, Sizes
from sparsetrain.engine.lower.undeployable import FixedBatch, Refused
from sparsetrain_runtime.program import Op, Program, Value

FLOAT, WHOLE, BOOL = "float32", "int64", "bool"
TORCH = {FLOAT: torch.float32, WHOLE: torch.int64, BOOL: torch.bool}


class Writer:
    """The program so far, and the call that is being written.

    Attributes:
        shapes, dtypes: of the results of this call.
    """

    def __init__(self, own: dict[int, str]) -> None:
        self.program = Program()
        self.tensors: dict[str, Tensor] = {}
        self.place = ""
        self.shapes: list[Sizes] = []
        self.dtypes: list[str] = []
        self._own = own  # where storages of the model begin, which nobody changes: their names
        self._named: dict[tuple, tuple[str, Tensor]] = {}  # a tensor that is let go loses its place
        self._constants: dict[tuple, int] = {}

    def emit(
        self,
        kind: str,
        inputs: Sequence[Item | int],
        attrs: dict[str, Any] | None = None,
        tensors: Mapping[str, Tensor | Item | None] | None = None,
        shape: Sequence[Size] | None = None,
        dtype: str | None = None,
    ) -> int:
        """Add an operation; its result is that of the call, unless a shape and dtype are given."""
        shape = self.shapes[0] if shape is None else tuple(shape)
        dtype = dtype or self.dtypes[0]
        numbers = [self.number(x) for x in inputs]
        names = {role: self._name(t) for role, t in (tensors or {}).items() if t is not None}
        output = self.value(shape, dtype)
        self.program.ops.append(Op(kind, numbers, output, attrs or {}, names, self.place))
        return output

    def value(self, shape: Sequence[Size], dtype: str) -> int:
        """A new value of the program."""
        self.program.values.append(Value(tuple(shape), dtype))
        return len(self.program.values) - 1

    def number(self, x: Item | int) -> int:
        """The value that an item is; a constant becomes one."""
        if isinstance(x, int):
            return x
        if x.missing is not None:
            raise Refused(x.missing)
        if x.number is not None:
            return x.number
        assert x.data is not None
        return self._constant(x)

    def shape(self, x: Item | int) -> Sizes:
        return self.program.values[x].shape if isinstance(x, int) else x.shape

    def dtype(self, x: Item | int) -> str:
        return self.program.values[x].dtype if isinstance(x, int) else dtype_of(x.dtype)

    def weight(self, x: Item, what: str = "weight") -> Tensor:
        """The numbers of a constant.

        Raises:
            Refused: it is made of the input.
        """
        fixed = x.fixed
        if fixed is None and x.data is not None:
            raise FixedBatch(f"a {what} hangs on the batch")
        if fixed is None:
            raise Refused(f"has a {what} that is made of the input, which the engine cannot")
        return fixed

    def constant(self, data: Tensor) -> int:
        """A value of numbers that are known now."""
        return self._constant(Item(tuple(data.shape), data.dtype, data=[data]))

    def _constant(self, x: Item) -> int:
        assert x.data is not None
        key = (x.shape, *(_identity(t) for t in x.data))
        if key not in self._constants:
            self._constants[key] = self._repeated(x)
        return self._constants[key]

    def _repeated(self, x: Item) -> int:
        """A constant, kept once along the axes that hang on the batch."""
        assert x.data is not None
        parts, dtype = list(x.data), dtype_of(x.dtype)
        for axis, size in enumerate(x.shape):
            if not isinstance(size, int):
                if any((t != t.narrow(axis, 0, 1)).any() for t in parts):
                    raise FixedBatch("numbers differ along an axis that hangs on the batch")
                parts = [t.narrow(axis, 0, 1) for t in parts]
        if any(not torch.equal(parts[0], t) for t in parts[1:]):
            raise FixedBatch("the numbers of a constant hang on the batch")
        few = parts[0].to(TORCH[dtype])
        role = {"data": Item(tuple(few.shape), few.dtype, data=[few])}
        once = self.emit("constant", [], {}, role, few.shape, dtype)
        if tuple(few.shape) == x.shape:
            return once
        return self.emit("expand", [once], {"shape": list(x.shape)}, None, x.shape, dtype)

    def _name(self, given: Tensor | Item) -> str:
        """The name under which a tensor stands in the file: its parameter's, where it is one."""
        tensor = self.weight(given) if isinstance(given, Item) else given
        key = _identity(tensor)
        if key not in self._named:
            whose = self._own.get(tensor.untyped_storage().data_ptr())
            name = unused(self.tensors, whose or f"{self.place.partition(',')[0]}.folded")
            kept = tensor.to(TORCH[dtype_of(tensor.dtype)])
            changes = isinstance(given, Item) and whose is None and kept is tensor
            self.tensors[name] = kept.clone() if changes else kept
            self._named[key] = name, tensor
        return self._named[key][0]


def unused(names: dict[str, Any], name: str) -> str:
    """The name, or with a number that no other has."""
    return next(n for i in range(10**9) if (n := f"{name}.{i}" if i else name) not in names)


def _identity(t: Tensor) -> tuple:
    return t.data_ptr(), t.dtype, tuple(t.shape), t.stride(), t._version
