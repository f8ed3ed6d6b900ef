"""Windows of images, and images of other sizes."""

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import axes_of, reshaped
from sparsetrain.engine.lower.sizes import Size, Sizes
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import Writer


def _both(given: list[int]) -> list[int]:
    """One number of an image's axes stands for both."""
    return list(given) * 2 if len(given) == 1 else list(given)


def image(w: Writer, x: Item) -> Item | int:
    """[N, C, H, W]; one image becomes a batch of one."""
    return reshaped(w, x, images(x.shape))


def images(shape: Sizes) -> list[Size]:
    return [1, *shape] if len(shape) == 3 else list(shape)


@rule("max_pool2d_with_indices", "max_pool2d")
def max_pool2d(
    w: Writer,
    x: Item,
    kernel_size: list[int],
    stride: list[int] = (),  # type: ignore[assignment]
    padding: list[int] = (0,),  # type: ignore[assignment]
    dilation: list[int] = (1,),  # type: ignore[assignment]
    ceil_mode: bool = False,
) -> list[Made]:
    told = _windows("max", kernel_size, stride, padding, ceil_mode)
    told |= {"dilation": _both(dilation), "count_padding": False, "divisor": None}
    return [_pooled(w, x, "pool", told)]


@rule("avg_pool2d")
def avg_pool2d(
    w: Writer,
    x: Item,
    kernel_size: list[int],
    stride: list[int] = (),  # type: ignore[assignment]
    padding: list[int] = (0,),  # type: ignore[assignment]
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Made:
    told = _windows("average", kernel_size, stride, padding, ceil_mode)
    told |= {"dilation": [1, 1], "count_padding": count_include_pad, "divisor": divisor_override}
    return _pooled(w, x, "pool", told)


@rule("avg_pool1d")
def avg_pool1d(
    w: Writer,
    x: Item,
    kernel_size: list[int],
    stride: list[int] = (),  # type: ignore[assignment]
    padding: list[int] = (0,),  # type: ignore[assignment]
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Made:
    each = ([1, *kernel_size], [1, *(stride or kernel_size)], [0, *padding])
    told = _windows("average", *each, ceil_mode)
    told |= {"dilation": [1, 1], "count_padding": count_include_pad, "divisor": None}
    return _line(w, x, "pool", told)


def _windows(
    kind: str, kernel: list[int], stride: list[int], padding: list[int], ceil: bool
) -> dict:
    kernel = _both(kernel)
    strides = _both(stride) if len(stride) else kernel
    each = {"kernel": kernel, "stride": strides, "padding": _both(padding)}
    return {"kind": kind, **each, "ceil": bool(ceil)}


@rule("_adaptive_avg_pool2d", "adaptive_avg_pool2d")
def adaptive_average(w: Writer, x: Item, output_size: list[int]) -> Made:
    if list(output_size) == [1, 1]:
        return mean_of_image(w, x)
    return _pooled(w, x, "adaptive_pool", {"kind": "average", "size": list(output_size)})


def mean_of_image(w: Writer, x: Item) -> Made:
    axes = axes_of([-2, -1], x.rank)
    return w.emit("reduce", [x], {"kind": "mean", "axes": axes, "keep": True})


@rule("adaptive_max_pool2d")
def adaptive_maximum(w: Writer, x: Item, output_size: list[int]) -> list[Made]:
    return [_pooled(w, x, "adaptive_pool", {"kind": "max", "size": list(output_size)})]


@rule("adaptive_avg_pool1d")
def adaptive_average_of_lines(w: Writer, x: Item, output_size: list[int]) -> Made:
    return _line(w, x, "adaptive_pool", {"kind": "average", "size": [1, *output_size]})


def _pooled(w: Writer, x: Item, kind: str, told: dict) -> Made:
    made = w.emit(kind, [image(w, x)], told, None, images(w.shapes[0]))
    return reshaped(w, made, w.shapes[0])


def _line(w: Writer, x: Item, kind: str, told: dict) -> Made:
    """[N, C, L] as images of one row."""
    if x.rank != 3:
        raise Refused("pools a line without a batch")
    row, made = ([*s[:2], 1, s[2]] for s in (x.shape, w.shapes[0]))
    return reshaped(w, w.emit(kind, [reshaped(w, x, row)], told, None, made), w.shapes[0])


@rule("upsample_nearest2d")
def nearest(w: Writer, x: Item, *told: object) -> Made:
    return _resized(w, x, "nearest", False, told)


@rule("upsample_bilinear2d")
def bilinear(w: Writer, x: Item, size: object, align_corners: bool, *told: object) -> Made:
    return _resized(w, x, "bilinear", align_corners, (size, *told))


@rule("upsample_bicubic2d")
def bicubic(w: Writer, x: Item, size: object, align_corners: bool, *told: object) -> Made:
    return _resized(w, x, "bicubic", align_corners, (size, *told))


@rule("upsample_nearest1d")
def nearest_of_lines(w: Writer, x: Item, size: object, *scales: object) -> Made:
    given = scales[-1] if scales else None
    factor = given[0] if isinstance(given, list) else given
    rows = [*x.shape[:2], 1, x.shape[2]]
    made = [*w.shapes[0][:2], 1, w.shapes[0][2]]
    told = {"mode": "nearest", "size": made[2:], "align_corners": False}
    told["scale"] = [1.0, 1 / float(factor)] if isinstance(factor, float) else None
    return reshaped(w, w.emit("resize", [reshaped(w, x, rows)], told, None, made), w.shapes[0])


def _resized(w: Writer, x: Item, mode: str, corners: bool, told: tuple) -> Made:
    """`told`: the size, and the factors as one list or as two numbers, if any."""
    rest = [one for each in told[1:] for one in (each if isinstance(each, list) else [each])]
    given = [float(one) for one in rest if one is not None]
    scale = [1 / factor for factor in given] if len(given) == 2 else None
    size = list(w.shapes[0][2:])
    attrs = {"mode": mode, "size": size, "align_corners": bool(corners), "scale": scale}
    return w.emit("resize", [x], attrs)
