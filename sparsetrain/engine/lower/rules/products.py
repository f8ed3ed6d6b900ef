"""Convolutions and matrix products."""

from torch import Tensor

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.transposed import flipped, with_gaps
from sparsetrain.engine.lower.rules.words import Number, binary, reshaped, unary
from sparsetrain.engine.lower.sizes import Size, whole
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import FLOAT, Writer


@rule("convolution", "_convolution")
def convolution(
    w: Writer,
    x: Item,
    weight: Item,
    bias: Item | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    *_: object,
) -> Made:
    """Lines are images of one row; a transposed one is plain, of an image with gaps of zeros."""
    kernel = w.weight(weight)
    if kernel.dim() == 5 and _patches(kernel, x, padding, groups, transposed):
        return _of_patches(w, x, kernel, bias)
    if kernel.dim() not in (3, 4):
        raise Refused(f"has {kernel.dim() - 2} axes of positions, not 1 or 2")
    if len(padding) == 1:  # "valid": one number for all axes
        padding = list(padding) * (kernel.dim() - 2)
    if kernel.dim() == 3:
        kernel = kernel.unsqueeze(2)
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
        output_padding = [0, *output_padding]
    image = reshaped(w, x, _image(x.shape, weight.rank))
    attrs = {"stride": list(stride), "padding": list(padding), "dilation": list(dilation)}
    if transposed:
        kernel = flipped(kernel, groups)
        image, attrs = with_gaps(w, image, kernel.shape[2:], attrs, output_padding)
    attrs |= {"groups": whole(groups), "activation": None}
    shift = None if bias is None else w.weight(bias, "bias")
    tensors = {"weight": kernel, "bias": shift}
    made = w.emit("convolution", [image], attrs, tensors, _image(w.shapes[0], weight.rank))
    return reshaped(w, made, w.shapes[0])


def _image(shape: tuple[Size, ...], rank: int) -> list[Size]:
    """[N, C, H, W] of what a convolution reads or makes whose weight has so many axes."""
    full = list(shape) if len(shape) == rank else [1, *shape]
    return [*full[:2], 1, full[2]] if rank == 3 else full


@rule("addmm", "addmv")
def addmm(w: Writer, bias: Item, a: Item, b: Item, beta: Number = 1, alpha: Number = 1) -> Made:
    """beta * bias + alpha * a b."""
    if b.fixed is not None and bias.fixed is not None and bias.rank == 1 and b.rank == 2:
        scaled = [w.weight(t) * s if s != 1 else w.weight(t) for t, s in ((b, alpha), (bias, beta))]
        if len(scaled[1]) == scaled[0].shape[1]:
            return linear(w, a, scaled[0].t(), scaled[1])
    made = _scaled(w, product(w, a, b, w.shapes[0]), alpha)
    return binary(w, "add", made, _scaled(w, bias, beta), w.shapes[0], FLOAT)


@rule("mm", "mv", "matmul")
def mm(w: Writer, a: Item, b: Item) -> Made:
    return product(w, a, b, w.shapes[0])


@rule("linear")
def whole_linear(w: Writer, x: Item, weight: Item, bias: Item | None = None) -> Made:
    return linear(w, x, w.weight(weight), None if bias is None else w.weight(bias, "bias"))


@rule("bmm")
def bmm(w: Writer, a: Item, b: Item) -> Made:
    return w.emit("matmul", [a, b])


@rule("baddbmm")
def baddbmm(w: Writer, bias: Item, a: Item, b: Item, beta: Number = 1, alpha: Number = 1) -> Made:
    made = _scaled(w, w.emit("matmul", [a, b]), alpha)
    if beta == 0:
        return made
    return binary(w, "add", made, _scaled(w, bias, beta), w.shapes[0], FLOAT)


@rule("dot")
def dot(w: Writer, a: Item, b: Item) -> Made:
    row, column = reshaped(w, a, [1, *a.shape]), reshaped(w, b, [*b.shape, 1])
    return reshaped(w, w.emit("matmul", [row, column], shape=[1, 1]), [])


def product(w: Writer, a: Item, b: Item, shape: tuple[Size, ...]) -> Made:
    """[n, k] times [k, m], or times [k]: a constant factor is the weight of a linear layer."""
    right = reshaped(w, b, [*b.shape, 1]) if b.rank == 1 else b
    columns = [*shape, 1] if b.rank == 1 else shape
    if b.fixed is not None and a.rank == 2:
        weight = w.weight(b)
        return linear(w, a, weight.t() if b.rank == 2 else weight[None], None)
    made = w.emit("matmul", [a, right], shape=columns)
    return reshaped(w, made, shape)


def linear(w: Writer, x: Item | int, weight: Tensor, bias: Tensor | None) -> Made:
    """x weight^T + bias, of a weight `[M, K]`."""
    tensors = {"weight": weight, "bias": bias}
    shape = [*w.shape(x)[:-1], len(weight)]
    made = w.emit("linear", [x], {"activation": None}, tensors, shape)
    return reshaped(w, made, w.shapes[0])


def _scaled(w: Writer, x: Item | int, factor: Number) -> Item | int:
    return x if factor == 1 else unary(w, x, "affine", scale=float(factor), shift=0.0)


def _patches(kernel: Tensor, x: Item, padding: list, groups: int, transposed: bool) -> bool:
    """Whether a convolution over volumes sees each of them whole, with nothing around."""
    alone = not any(padding) and groups == 1 and not transposed
    return alone and tuple(x.shape[-3:]) == tuple(kernel.shape[2:]) and x.rank == 5


def _of_patches(w: Writer, x: Item, kernel: Tensor, bias: Item | None) -> Made:
    """Then it is a linear layer."""
    flat = reshaped(w, x, [x.shape[0], kernel[0].numel()])
    shift = None if bias is None else w.weight(bias, "bias")
    return linear(w, flat, kernel.flatten(1), shift)
