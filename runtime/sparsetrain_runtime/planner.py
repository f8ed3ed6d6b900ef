"""How a program runs for one batch: where each value lies, and the steps that compute it.

Images [N, C, H, W] lie with the batch innermost, inside a halo of zeros as wide as the padding of
the convolutions that read them; tokens [..., K] lie feature-first. So a product adds runs of
neighbouring numbers whatever its weights are. Of a few items channels are outermost, [C, H, W, N],
so that rows are one run; of more, rows are, [H, C, W, N], so that what a tile reads lies in few
pages. Reshapes, slices and permutations are other views of the same numbers where strides can say
so, else copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sparsetrain_runtime import arena
from sparsetrain_runtime.program import Op, Program, Size, at
from sparsetrain_runtime.tiles import together
from sparsetrain_runtime.views import Buffer, View, dense, is_dense, ordered
from sparsetrain_runtime.words import Step

MOST_TAPS = 64  # rows or columns of a depthwise kernel
FEW = 4  # items from which a row of an image is a run that is long enough


@dataclass
class Planned:
    """What `Session` takes, before it is words.

    Attributes:
        constants: names of tensors, by their index.
        arena: bytes.
    """

    steps: list[Step] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    inputs: list[Buffer] = field(default_factory=list)
    outputs: list[Buffer] = field(default_factory=list)
    arena: int = 0


class Planner:
    """Builds the steps of one program for one batch.

    Args:
        tensors: name -> (dtype, shape) of the file's tensors.
    """

    def __init__(
        self, program: Program, batch: int, tensors: dict[str, tuple[str, tuple[int, ...]]]
    ) -> None:
        self.program, self.batch, self.tensors = program, batch, tensors
        self.planned = Planned()
        self.views: dict[int, View] = {}
        self.readers = _readers(program)
        self.halos = _halos(program, tensors)
        self.image_order = (2, 1, 3, 0) if batch >= FEW else (1, 2, 3, 0)
        self.attends = any(op.kind == "attention" for op in program.ops)
        self._constants: dict[str, Buffer] = {}
        self._arena: list[Buffer] = []
        self._op, self._place = -1, ""

    def plan(self, rules: dict[str, Callable[[Planner, Op], None]]) -> Planned:
        for i, (_, value) in enumerate(self.program.inputs.items()):
            self._give(value, self._outside("input", i, value))
        for number, op in enumerate(self.program.ops):
            self._op = number
            self._place = op.place or op.kind
            rules[op.kind](self, op)
            for value in op.inputs:
                self.readers[value] -= 1
        for i, (name, value) in enumerate(self.program.outputs.items()):
            self._op, self._place = -1, f"output {name}"
            self.copy(self.views[value], self._outside("output", i, value))
        self.planned.steps = together(self.planned.steps)
        self.planned.arena = arena.place(b for b in self._arena if b.last >= 0)
        return self.planned

    # what rules ask for

    def size(self, size: Size) -> int:
        return at(size, self.batch)

    def shape(self, value: int) -> tuple[int, ...]:
        return tuple(self.size(s) for s in self.program.values[value].shape)

    def new(self, value: int, order: Sequence[int]) -> View:
        """Memory for a value, its axes in `order`; of an image with the halo that it needs."""
        halo = self.halos.get(value, (0, 0))
        if halo != (0, 0) and tuple(order) == self.image_order:
            view = self.image(self.shape(value), halo)
        else:
            view = self.memory(self.shape(value), order, self.program.values[value].dtype)
        self._give(value, view)
        return view

    def memory(self, shape: Sequence[int], order: Sequence[int], dtype: str = "float32") -> View:
        buffer = Buffer(math.prod(shape), dtype)
        self._arena.append(buffer)
        return View(buffer, 0, tuple(shape), dense(shape, order))

    def image(self, shape: Sequence[int], halo: tuple[int, int]) -> View:
        """Memory for an image [N, C, H, W] in zeros."""
        (n, c, h, w), (rows, columns) = shape, halo
        whole = self.memory((n, c, h + 2 * rows, w + 2 * columns), self.image_order)
        view = whole.slice(2, rows, rows + h).slice(3, columns, columns + w)
        if halo != (0, 0):
            view.buffer.image, view.buffer.halo = view, halo
            self.emit("halo", (), (view,), halo)
        return view

    def alias(self, value: int, view: View) -> None:
        """Let a value be a view of numbers that are there."""
        self._give(value, view)

    def constant(self, name: str) -> View:
        dtype, shape = self.tensors[name]
        if name not in self._constants:
            index = len(self.planned.constants)
            self._constants[name] = Buffer(math.prod(shape), dtype, "constant", index)
            self.planned.constants.append(name)
        return View(self._constants[name], 0, shape, dense(shape, range(len(shape))))

    def emit(
        self,
        operation: str,
        inputs: Sequence[View],
        outputs: Sequence[View],
        attributes: Sequence[int | float] = (),
    ) -> None:
        views = (tuple(inputs), tuple(outputs))
        step = Step(operation, *views, tuple(attributes), self._op, self._place)
        self.planned.steps.append(step)

    def copy(self, source: View, target: View) -> None:
        self.emit("copy", (source,), (target,))

    def like(self, value: int, view: View) -> View:
        """Memory for a value whose axes are in the order of `view`'s."""
        image = view.rank == 4 and ordered(view, self.image_order)
        return self.new(value, self.image_order if image else view.order)

    def reusable(self, view: View) -> bool:
        """Whether nobody reads these numbers after the operation that is being planned."""
        buffer = view.buffer
        left = sum(self.readers[v] for v in buffer.values)
        return buffer.region == "arena" and left == 1 and 0 not in view.strides

    def dense_in(self, view: View, order: Sequence[int]) -> View:
        """The same numbers without gaps and in that order of axes: a copy if they are not so."""
        if is_dense(view) and ordered(view, order):
            return view
        made = self.memory(view.shape, order, view.dtype)
        self.copy(view, made)
        return made

    def reshaped(self, view: View, shape: Sequence[int]) -> View:
        """A view of another shape: of a copy where strides cannot say it."""
        found = view.reshape(shape)
        if found is None:
            rows = self.memory(view.shape, range(view.rank), view.dtype)
            self.copy(view, rows)
            found = rows.reshape(shape)
        assert found is not None
        return found

    def _give(self, value: int, view: View) -> None:
        self.views[value] = view
        view.buffer.values.add(value)

    def _outside(self, region: str, index: int, value: int) -> View:
        shape, dtype = self.shape(value), self.program.values[value].dtype
        buffer = Buffer(math.prod(shape), dtype, region, index)
        (self.planned.inputs if region == "input" else self.planned.outputs).append(buffer)
        return View(buffer, 0, shape, dense(shape, range(len(shape))))


def _readers(program: Program) -> dict[int, int]:
    """How many operations and outputs read each value."""
    count = dict.fromkeys(range(len(program.values)), 0)
    for op in program.ops:
        for value in op.inputs:
            count[value] += 1
    for value in program.outputs.values():
        count[value] += 1
    return count


def is_depthwise(op: Op, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> bool:
    """Whether each output of a convolution sees one channel, by a weight that is dense."""
    if op.kind != "convolution" or op.attrs["groups"] == 1 or "weight" not in op.tensors:
        return False
    _, inputs, *kernel = tensors[op.tensors["weight"]][1]
    return inputs == 1 and max(kernel) <= MOST_TAPS


def _halos(
    program: Program, tensors: dict[str, tuple[str, tuple[int, ...]]]
) -> dict[int, tuple[int, int]]:
    """The zeros that must stand around each image: the padding of products that read it.

    What is added to a product lies as the product's result does, so both have the wider halo.
    """
    halos: dict[int, tuple[int, int]] = {}
    for op in program.ops:
        product = op.kind == "convolution" and not is_depthwise(op, tensors)
        if product and op.attrs["stride"][1] == 1:
            _widen(halos, op.inputs[0], tuple(op.attrs["padding"]))
    added = [op for op in program.ops if op.kind == "convolution" and len(op.inputs) == 2]
    for op in [*reversed(added), *added]:
        both = max(halos.get(op.output, (0, 0)), halos.get(op.inputs[1], (0, 0)))
        _widen(halos, op.output, both)
        _widen(halos, op.inputs[1], both)
    return halos


def _widen(halos: dict[int, tuple[int, int]], value: int, halo: Sequence[int]) -> None:
    before = halos.get(value, (0, 0))
    halos[value] = (max(before[0], halo[0]), max(before[1], halo[1]))
