"""What passes look up and change in a program."""

from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor

from sparsetrain_runtime.program import Op, Program


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

    def made_by(self, value: int, kind: str) -> Op | None:
        """The operation that makes a value, if it is of this kind."""
        op = self.maker.get(value)
        return op if op is not None and op.kind == kind else None

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
        inputs: list[int],
        attrs: dict,
        tensors: Mapping[str, str] | None = None,
    ) -> None:
        """Let an operation be another one that makes the same value."""
        for value in op.inputs:
            self._readers[value].remove(op)
        op.kind, op.inputs, op.attrs, op.tensors = kind, inputs, attrs, dict(tensors or {})
        for value in inputs:
            self._readers[value].append(op)

    def shape(self, value: int) -> tuple:
        return self.program.values[value].shape


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
