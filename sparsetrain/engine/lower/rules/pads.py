"""Margins, and windows as an axis of their own."""

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import Number, joined, reshaped, sliced
from sparsetrain.engine.lower.sizes import plus, whole
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import Writer


@rule("constant_pad_nd")
def constant_pad_nd(w: Writer, x: Item, pad: list[int], value: Number = 0) -> Made:
    """Pads below zero cut off."""
    kept: Made = x
    pairs = _pairs(x.rank, pad)
    for axis, (before, after) in enumerate(pairs):
        if before < 0 or after < 0:
            length = w.shape(kept)[axis]
            kept = sliced(w, kept, axis, max(-before, 0), plus(length, min(after, 0)))
    if all(before <= 0 and after <= 0 for before, after in pairs):
        return kept
    pads = [[max(before, 0), max(after, 0)] for before, after in pairs]
    told = {"pads": pads, "mode": "constant", "value": float(value)}
    return w.emit("pad", [kept], told)


@rule("reflection_pad1d", "reflection_pad2d")
def reflection(w: Writer, x: Item, padding: list[int]) -> Made:
    return _border(w, x, padding, "reflect")


@rule("replication_pad1d", "replication_pad2d")
def replication(w: Writer, x: Item, padding: list[int]) -> Made:
    return _border(w, x, padding, "replicate")


@rule("_pad_circular")
def circular(w: Writer, x: Item, padding: list[int]) -> Made:
    return _border(w, x, padding, "circular")


def _border(w: Writer, x: Item, padding: list[int], mode: str) -> Made:
    if min(padding) < 0:
        raise Refused("has a margin below zero")
    pads = [list(pair) for pair in _pairs(x.rank, padding)]
    return w.emit("pad", [x], {"pads": pads, "mode": mode, "value": 0.0})


def _pairs(rank: int, pad: list[int]) -> list[tuple[int, int]]:
    """(before, after) of every axis; torch names those of the last axis first."""
    given = [(whole(pad[i]), whole(pad[i + 1])) for i in range(0, len(pad), 2)]
    return [(0, 0)] * (rank - len(given)) + given[::-1]


@rule("im2col")
def im2col(
    w: Writer, x: Item, kernel_size: list, dilation: list, padding: list, stride: list
) -> Made:
    """[N, C, H, W] to [N, C * kernel, windows]: one strided slice for each place of the kernel."""
    batch, channels, rows, columns = x.shape
    sizes, padded = [whole(rows), whole(columns)], w.number(x)
    if any(padding):
        pads = [[0, 0], [0, 0], *([p, p] for p in padding)]
        sizes = [n + 2 * p for n, p in zip(sizes, padding, strict=True)]
        told = {"pads": pads, "mode": "constant", "value": 0.0}
        padded = w.emit("pad", [x], told, None, [batch, channels, *sizes])
    windows = [
        (n - d * (k - 1) - 1) // s + 1
        for n, d, k, s in zip(sizes, dilation, kernel_size, stride, strict=True)
    ]
    parts = []
    for i in range(kernel_size[0]):
        for j in range(kernel_size[1]):
            part = padded
            for axis, place in enumerate((i, j)):
                first, s = place * dilation[axis], stride[axis]
                last = first + (windows[axis] - 1) * s + 1
                part = sliced(w, part, axis + 2, first, last, s)
            parts.append(reshaped(w, part, [batch, channels, 1, windows[0] * windows[1]]))
    whole_shape = [batch, channels, len(parts), windows[0] * windows[1]]
    return reshaped(w, joined(w, parts, 2, whole_shape), w.shapes[0])
