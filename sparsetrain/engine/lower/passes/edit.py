"""What passes look up and change in a program."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sparsetrain.engine.lower.writer import unused
from sparsetrain_runtime.program import Op, Program, Size, Value


class Edit:
    """A program with its readers at hand.

    Attributes:
        maker: value -> the operation that makes it; inputs have none.
    """

    def __init__(self, program: Program, tensors: dict[str, Tensor]) -> None:
        self.program, self.tensors = program, tensors
        self.maker: dict[int, Op] = {op.output: op for op in program.ops}
        self._readers: dict[int, list[Op]] = defaultdict(list)
        for op in program.ops:
            for value in op.inputs:
                self._readers[value].append(op)

    def readers(self, value: int) -> list[Op]:
        """The operations that read a value; one twice if it does so twice."""
        return self._readers[value]

    def only_reader(self, value: int) -> Op | None:
        """The one that reads it, if nothing else does and it is no output."""
        readers = self._readers[value]
        alone = len(readers) == 1 and value not in self.program.outputs.values()
        return readers[0] if alone else None

    def made_by(self, value: int, *kinds: str) -> Op | None:
        """The operation that makes a value, if it is of these kinds."""
        op = self.maker.get(value)
        return op if op is not None and op.kind in kinds else None

    def stands(self, op: Op) -> bool:
        """Whether it is still there: another may have absorbed it."""
        return self.maker.get(op.output) is op

    def shape(self, value: int) -> tuple[Size, ...]:
        return self.program.values[value].shape

    def constant(self, value: int) -> Tensor | None:
        """The numbers of a value that is a constant."""
        op = self.made_by(value, "constant", "full")
        if op is None:
            return None
        if op.kind == "constant":
            return self.tensors[op.tensors["data"]]
        sizes = op.attrs["shape"]
        filled = all(isinstance(size, int) for size in sizes) and op.attrs["dtype"] == "float32"
        return Tensor([op.attrs["value"]]).reshape(()).expand(sizes) if filled else None

    def replace(self, value: int, by: int) -> None:
        """Let what reads a value read another one."""
        for op in self._readers.pop(value, []):
            op.inputs = [by if x == value else x for x in op.inputs]
            self._readers[by].append(op)
        outputs = self.program.outputs
        outputs.update({name: by for name, x in outputs.items() if x == value})

    def rewrite(
        self,
        op: Op,
        kind: str,
        inputs: Sequence[int],
        attrs: dict[str, Any],
        tensors: Mapping[str, str] | None = None,
    ) -> None:
        """Let an operation be another one that makes the same value."""
        self._forget(op)
        op.kind, op.inputs, op.attrs = kind, list(inputs), attrs
        op.tensors = dict(tensors or {})
        for value in inputs:
            self._readers[value].append(op)

    def add(
        self,
        like: Op,
        kind: str,
        inputs: Sequence[int],
        attrs: dict[str, Any],
        shape: Sequence[Size],
        tensors: Mapping[str, str] | None = None,
    ) -> int:
        """A new operation where another stands; its value, of the dtype that it reads first."""
        dtype = self.program.values[inputs[0]].dtype
        self.program.values.append(Value(tuple(shape), dtype))
        output = len(self.program.values) - 1
        op = Op(kind, [], output, {}, {}, like.place)
        self.program.ops.append(op)
        self.maker[output] = op
        self.rewrite(op, kind, inputs, attrs, tensors)
        return output

    def absorb(self, op: Op, reader: Op, more: Sequence[int] = ()) -> None:
        """Let an operation make what its only reader made, and read what that read besides."""
        self._forget(reader)
        self.program.ops.remove(reader)
        del self.maker[op.output]
        op.output = reader.output
        self.maker[op.output] = op
        self.rewrite(op, op.kind, [*op.inputs, *more], op.attrs, op.tensors)

    def tensor(self, name: str, tensor: Tensor) -> str:
        """Keep a tensor; the name under which it is kept."""
        name = unused(self.tensors, name)
        self.tensors[name] = tensor
        return name

    def _forget(self, op: Op) -> None:
        for value in op.inputs:
            self._readers[value].remove(op)


def sweep(program: Program, tensors: dict[str, Tensor]) -> None:
    """Drop operations that nothing reads, values that are not made, tensors that are not used.

    Operations come in an order in which each value is made before it is read.
    """
    needed, kept = set(program.outputs.values()), []
    for op in reversed(_ordered(program)):
        if op.output in needed:
            needed |= set(op.inputs)
            kept.append(op)
    program.ops = kept[::-1]
    used = {name for op in kept for name in op.tensors.values()}
    for name in tensors.keys() - used:
        del tensors[name]
    _renumber(program)


def _ordered(program: Program) -> list[Op]:
    """As they stand, but that what an operation reads comes before it."""
    makers = {op.output: op for op in program.ops}
    ordered: list[Op] = []
    seen: set[int] = set()
    stack = [(op.output, False) for op in reversed(program.ops)]
    while stack:
        value, ready = stack.pop()
        if ready:
            ordered.append(makers[value])
        elif value not in seen and value in makers:
            seen.add(value)
            stack.append((value, True))
            stack += [(x, False) for x in reversed(makers[value].inputs)]
    return ordered


def _renumber(program: Program) -> None:
    kept = [*program.inputs.values(), *(op.output for op in program.ops)]
    new = {old: i for i, old in enumerate(dict.fromkeys(kept))}
    program.values = [program.values[old] for old in new]
    for op in program.ops:
        op.inputs, op.output = [new[x] for x in op.inputs], new[op.output]
    program.inputs = {name: new[x] for name, x in program.inputs.items()}
    program.outputs = {name: new[x] for name, x in program.outputs.items()}
