"""A transposed convolution as a plain one, of an image with gaps of zeros between its pixels."""

from torch import Tensor

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.words import reshaped
from sparsetrain.engine.lower.sizes import whole
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import Writer


def flipped(kernel: Tensor, groups: int) -> Tensor:
    """[I, O / g, h, w] of a transposed convolution as [O, I / g, h, w] of a plain one."""
    inputs, outputs, *size = kernel.shape
    parts = kernel.flip(2, 3).reshape(groups, inputs // groups, outputs, *size)
    return parts.transpose(1, 2).reshape(groups * outputs, inputs // groups, *size)


def with_gaps(
    w: Writer, x: Item | int, kernel: tuple[int, ...], attrs: dict, more: list[int]
) -> tuple[Item | int, dict]:
    """The image with stride - 1 zeros after each of its pixels, and a margin; and what is left.

    Args:
        kernel: its rows and columns.
        attrs: stride, padding and dilation of the transposed convolution.
        more: its output padding.
    """
    margins = []
    for axis, step in enumerate(attrs["stride"]):
        x = _apart(w, x, axis + 2, step)
        reach = attrs["dilation"][axis] * (kernel[axis] - 1) - attrs["padding"][axis]
        margins.append([reach, reach + more[axis] - (step - 1)])
    if min(min(pair) for pair in margins) < 0:
        raise Refused("is transposed with a stride or padding beyond what its kernel reaches")
    batch, channels, *size = w.shape(x)
    padded = [whole(n) + a + b for n, (a, b) in zip(size, margins, strict=True)]
    told = {"pads": [[0, 0], [0, 0], *margins], "mode": "constant", "value": 0.0}
    if any(any(pair) for pair in margins):
        x = w.emit("pad", [x], told, None, [batch, channels, *padded])
    return x, attrs | {"stride": [1, 1], "padding": [0, 0]}


def _apart(w: Writer, x: Item | int, axis: int, step: int) -> Item | int:
    """With step - 1 zeros after each entry of an axis."""
    if step == 1:
        return x
    shape = list(w.shape(x))
    each = reshaped(w, x, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
    pads = [[0, step - 1] if d == axis + 1 else [0, 0] for d in range(len(shape) + 1)]
    told = {"pads": pads, "mode": "constant", "value": 0.0}
    gaps = w.emit("pad", [each], told, None, [*shape[: axis + 1], step, *shape[axis + 1 :]])
    shape[axis] = whole(shape[axis]) * step
    return reshaped(w, gaps, shape)
