"""Convolutions and linear layers as the engine's product; depthwise convolutions as their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsetrain_runtime.planner import Planner, is_depthwise
from sparsetrain_runtime.pointwise import apply
from sparsetrain_runtime.program import Op
from sparsetrain_runtime.views import View, is_dense, ordered


def convolution(planner: Planner, op: Op) -> None:
    x = planner.views[op.inputs[0]]
    shape = planner.shape(op.output)
    kernel = weight_shape(planner, op)[2:]
    stride, padding = op.attrs["stride"], op.attrs["padding"]
    if is_depthwise(op, planner.tensors):
        _depthwise(planner, op, kernel)
        return
    if _patches(op, kernel, x.shape, shape):
        _patch_product(planner, op, kernel)
        return
    if stride[1] > 1:
        source, beside = _phases(planner, op, x, shape, kernel)
    else:
        source, beside = _image(planner, x, padding).insert(2), padding[1]
    y = _target(planner, op, planner.image_order)
    steps = (stride[0], padding[0], beside, *op.attrs["dilation"])
    _product(planner, op, source, y, kernel, steps)


def linear(planner: Planner, op: Op) -> None:
    x = _tokens(planner, planner.views[op.inputs[0]])
    y = _target(planner, op, (x.rank - 1, *(a for a in x.order if a != x.rank - 1)))
    _product(planner, op, _line(x).insert(2), _line(y), (1, 1), (1, 0, 0, 1, 1))


def _depthwise(planner: Planner, op: Op, kernel: Sequence[int]) -> None:
    x = _image(planner, planner.views[op.inputs[0]], (0, 0))
    y = planner.new(op.output, planner.image_order)
    roles = ("weight", "bias") if "bias" in op.tensors else ("weight",)
    inputs = [x, *(planner.constant(op.tensors[role]) for role in roles)]
    relu, most, rest = _ends(op.attrs["activation"], len(op.inputs) == 1)
    steps = (*op.attrs["stride"], *op.attrs["padding"], *op.attrs["dilation"])
    planner.emit("depthwise", inputs, (y,), (len(roles) - 1, int(relu), *kernel, *steps, most))
    _finish(planner, op, None if len(op.inputs) == 1 else planner.views[op.inputs[1]], rest)


def weight_shape(planner: Planner, op: Op) -> tuple[int, ...]:
    """Of the dense weight."""
    if "weight" in op.tensors:
        return planner.tensors[op.tensors["weight"]][1]
    return tuple(op.attrs["form"]["shape"])


def _target(planner: Planner, op: Op, order: Sequence[int]) -> View:
    """Where the result goes: over what is added to it, where nobody reads that afterwards."""
    if len(op.inputs) == 2:
        added = planner.views[op.inputs[1]]
        needed = planner.halos.get(op.output, (0, 0))
        have = added.buffer.halo if added == added.buffer.image else (0, 0)
        lies = ordered(added, order) and (have != (0, 0) or is_dense(added))
        wide = have[0] >= needed[0] and have[1] >= needed[1]
        if lies and wide and planner.reusable(added) and op.inputs[0] != op.inputs[1]:
            planner.alias(op.output, added)
            return added
    return planner.new(op.output, order)


def _product(
    planner: Planner,
    op: Op,
    x: View,
    y: View,
    kernel: Sequence[int],
    steps: tuple[int, int, int, int, int],
) -> None:
    """Emit it, and what of residual and activation it cannot do itself."""
    stride, above, beside, row_step, column_step = steps
    form = op.attrs.get("form")
    roles = ("start", "column", "value") if form else ("weight",)
    inputs = [x, *(planner.constant(op.tensors[role]) for role in roles)]
    if "bias" in op.tensors:
        inputs.append(planner.constant(op.tensors["bias"]))
    added = None if len(op.inputs) == 1 else planner.views[op.inputs[1]]
    fused = added is not None and _alike(planner, op, added)
    if added is not None and fused:
        inputs.append(_line(added) if op.kind == "linear" else added)
    relu, most, rest = _ends(op.attrs["activation"], added is None or fused)
    v = form["v"] if form else 1
    flags = (int(not form), int("bias" in op.tensors), int(fused), int(relu))
    groups = op.attrs.get("groups", 1)
    numbers = (v, *kernel, stride, above, beside, row_step, column_step, groups, most)
    planner.emit("product", inputs, (y,), (*flags, *numbers))
    _finish(planner, op, None if fused else added, rest)


def _finish(planner: Planner, op: Op, added: View | None, activation: dict | None) -> None:
    """What the operation itself has not done: a residual, an activation."""
    whole = planner.views[op.output]
    if added is not None:
        planner.emit("binary", (whole, added), (whole,), (0,))
    if activation is not None:
        apply(planner, activation, whole, whole)


def _ends(activation: dict | None, inside: bool) -> tuple[bool, float, dict | None]:
    """Whether the product ends in a ReLU, its upper end, and what is left to do."""
    if activation is None or not inside:
        return False, math.inf, activation
    if activation["kind"] == "relu":
        return True, math.inf, None
    if activation["kind"] == "clamp" and activation.get("low") == 0:
        high = activation.get("high")
        return True, math.inf if high is None else float(high), None
    return False, math.inf, activation


def _alike(planner: Planner, op: Op, added: View) -> bool:
    """Whether the residual lies as the result does."""
    y = planner.views[op.output]
    same = all(a == b or n == 1 for a, b, n in zip(added.strides, y.strides, y.shape, strict=True))
    return same and added.shape == y.shape


def _image(planner: Planner, x: View, padding: Sequence[int]) -> View:
    """x channel-first, with zeros around it where taps of padding read."""
    n, w = x.shape[0], x.shape[3]
    runs = (n == 1 or x.strides[0] == 1) and (w == 1 or x.strides[3] == n)
    have = x.buffer.halo if x == x.buffer.image else (0, 0)
    if runs and have[0] >= padding[0] and have[1] >= padding[1]:
        return x
    made = planner.image(x.shape, (padding[0], padding[1]))
    planner.copy(x, made)
    return made


def _patches(op: Op, kernel: Sequence[int], x: Sequence[int], y: Sequence[int]) -> bool:
    """Whether it cuts an image into pieces that do not overlap, each a row of a linear layer."""
    whole = all(k * n == size for k, n, size in zip(kernel, y[2:], x[2:], strict=True))
    steps = tuple(op.attrs["stride"]) == tuple(kernel) and tuple(kernel) != (1, 1)
    plain = tuple(op.attrs["padding"]) == (0, 0) and op.attrs["groups"] == 1
    return whole and steps and plain and tuple(op.attrs["dilation"]) == (1, 1)


def _patch_product(planner: Planner, op: Op, kernel: Sequence[int]) -> None:
    x = planner.views[op.inputs[0]]
    n, c = x.shape[:2]
    rows, columns = planner.shape(op.output)[2:]
    k, m = kernel
    split = planner.reshaped(x, (n, c, rows, k, columns, m))
    order = (3, 0, 1, 2, 4, 5) if planner.image_order[0] == 2 else range(6)
    pieces = planner.memory((c, k, m, rows, columns, n), order)
    planner.copy(split.permute((1, 3, 5, 2, 4, 0)), pieces)
    image = pieces.reshape((c * k * m, rows, columns, n))
    assert image is not None
    y = planner.new(op.output, planner.image_order)
    _product(planner, op, image.permute((3, 0, 1, 2)).insert(2), y, (1, 1), (1, 0, 0, 1, 1))


def _phases(
    planner: Planner, op: Op, x: View, y: Sequence[int], kernel: Sequence[int]
) -> tuple[View, int]:
    """x with every t-th column together, t times, so that taps read neighbouring numbers.

    Returns:
        `[N, C, T, H, W / T]`, and where the first tap's column stands.
    """
    t, (above, beside) = op.attrs["stride"][1], op.attrs["padding"]
    step = op.attrs["dilation"][1]
    n, c, h, w = x.shape
    first = -(-beside // t)  # columns of a phase before the image begins
    reach = first + max(-(-w // t), (step * (kernel[1] - 1) - beside) // t + y[3])
    phases = 1 if kernel[1] == 1 and beside == 0 else t
    order = (3, 1, 2, 4, 0) if planner.image_order[0] == 2 else (1, 2, 3, 4, 0)
    made = planner.memory((n, c, phases, h + 2 * above, first + reach), order)
    if above or beside or w % t or first + -(-w // t) < first + reach:
        planner.emit("fill", (), (made,), (0.0,))
    inner = made.slice(3, above, above + h)
    for phase in range(min(phases, w)):
        source = x.slice(3, phase, w, t)
        target = inner.permute((0, 1, 3, 4, 2)).slice(3, first, first + source.shape[3])
        piece = target.slice(4, phase, phase + 1).reshape(source.shape)
        assert piece is not None
        planner.copy(source, piece)
    view = made.slice(4, first, first + reach)
    return View(view.buffer, view.offset + above * view.strides[3], *_without(view, above)), beside


def _without(view: View, above: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    n, c, t, h, w = view.shape
    return (n, c, t, h - 2 * above, w), view.strides


def _tokens(planner: Planner, x: View) -> View:
    """x [..., K] feature-first, the rest one run of numbers; in order where heads attend."""
    rest = [a for a in x.order if a != x.rank - 1]
    if planner.attends and x.rank == 3:
        rest = sorted(rest)
    wanted = (x.rank - 1, *rest)
    return planner.dense_in(x, wanted)


def _line(x: View) -> View:
    """[..., K] as [1, K, 1, tokens], whatever the order of its tokens."""
    order = (x.rank - 1, *sorted(range(x.rank - 1), key=lambda a: -x.strides[a]))
    moved = x.permute(order)
    flat = moved.reshape((1, x.shape[-1], 1, math.prod(moved.shape[1:])))
    assert flat is not None
    return flat
