"""The same numbers under other axes."""

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import axes_of, axis_of, expanded, permuted, reshaped
from sparsetrain.engine.lower.sizes import Size, product, whole
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import Writer


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten")
def reshape(w: Writer, x: Item, *_: object, **__: object) -> Made:
    """The recorded shape says it all; a view of bits is none."""
    if x.dtype.is_floating_point != (w.dtypes[0] == "float32"):
        raise Refused("looks at a tensor's bits")
    return reshaped(w, x, w.shapes[0])


@rule("alias", "detach", "clone", "contiguous", "lift_fresh", "lift_fresh_copy", "view_as")
def same(w: Writer, x: Item, *_: object, **__: object) -> Made:
    return x


@rule("as_strided")
def as_strided(
    w: Writer, x: Item, size: list[Size], stride: list[Size], storage_offset: int | None = None
) -> Made:
    """Other strides for the same entries: torch gives them to what a norm makes."""
    wide = [axis for axis, n in enumerate(x.shape) if n != 1]
    dense = sorted((x.strides[axis] for axis in wide), reverse=True)
    alike = tuple(size) == x.shape and not storage_offset and len(set(dense)) == len(dense)
    if not alike or any(stride[axis] != x.strides[axis] for axis in wide):
        raise Refused("addresses memory by strides")
    return x


@rule("permute")
def permute(w: Writer, x: Item, dims: list[int]) -> Made:
    return permuted(w, x, [axis_of(d, x.rank) for d in dims])


@rule("transpose")
def transpose(w: Writer, x: Item, dim0: int, dim1: int) -> Made:
    axes = list(range(x.rank))
    a, b = axis_of(dim0, x.rank), axis_of(dim1, x.rank)
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return permuted(w, x, axes)


@rule("t", "numpy_T")
def t(w: Writer, x: Item) -> Made:
    return permuted(w, x, range(x.rank)[::-1])


@rule("expand")
def expand(w: Writer, x: Item, size: list[Size], implicit: bool = False) -> Made:
    return expanded(w, x, w.shapes[0])


@rule("repeat")
def repeat(w: Writer, x: Item, repeats: list[int]) -> Made:
    """Each axis is one of size 1 beside it, expanded, and the two become one."""
    shape: list[Size] = [1] * (len(repeats) - x.rank) + list(x.shape)
    apart, wide = [], []
    for size, times in zip(shape, repeats, strict=True):
        apart += [1, size]
        wide += [times, size]
    if len(apart) > 8:
        keep = [i for i, n in enumerate(wide) if not (n == 1 and apart[i] == 1)]
        apart, wide = [apart[i] for i in keep], [wide[i] for i in keep]
    return reshaped(w, expanded(w, reshaped(w, x, apart), wide), w.shapes[0])


@rule("pixel_shuffle")
def pixel_shuffle(w: Writer, x: Item, upscale_factor: int) -> Made:
    """[..., C r r, H, W] to [..., C, H r, W r]."""
    *lead, channels, rows, columns = x.shape
    r, n = upscale_factor, len(lead)
    apart = reshaped(w, x, [*lead, whole(channels) // r**2, r, r, rows, columns])
    axes = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return reshaped(w, permuted(w, apart, axes), w.shapes[0])


@rule("pixel_unshuffle")
def pixel_unshuffle(w: Writer, x: Item, downscale_factor: int) -> Made:
    """[..., C, H r, W r] to [..., C r r, H, W]."""
    *lead, channels, rows, columns = x.shape
    r, n = downscale_factor, len(lead)
    apart = reshaped(w, x, [*lead, channels, whole(rows) // r, r, whole(columns) // r, r])
    axes = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return reshaped(w, permuted(w, apart, axes), w.shapes[0])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(w: Writer, x: Item, groups: int) -> Made:
    batch, channels, *rest = x.shape
    apart = reshaped(w, x, [batch, groups, whole(channels) // groups, product(rest)])
    return reshaped(w, permuted(w, apart, [0, 2, 1, 3]), w.shapes[0])


@rule("movedim")
def movedim(w: Writer, x: Item, source: list[int], destination: list[int]) -> Made:
    to = {axis_of(d, x.rank): axis_of(s, x.rank) for s, d in zip(source, destination, strict=True)}
    rest = iter([axis for axis in axes_of(None, x.rank) if axis not in to.values()])
    return permuted(w, x, [to[d] if d in to else next(rest) for d in range(x.rank)])
