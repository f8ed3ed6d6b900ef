"""Operations that keep every entry and rename its place."""

import math
import re

import numpy as np

from sparsetrain.shrink.labels import Dims, Labels, Split, Tracer
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.rules.registry import positive, rule, unknown, untracked
from sparsetrain.shrink.runs import matching_runs

FEW = 4  # parts of a dimension, below which they are q, k and v, or halves, rather than channels


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "_reshape_copy")
def reshape(t: Tracer, step: Step) -> Dims:
    """Merged dimensions repeat labels: behind a flatten a channel owns height * width entries.

    Where a dimension comes apart, one of its parts holds the channels, and labels that stand at
    one place of it are tied: whole heads, or one dimension within all heads.
    """
    x = step.values[0]
    before, after, dims = x.shape, step.outputs[0].shape, t.dims[x]
    if 0 in after:
        return untracked(step.outputs[0])
    result: Dims = untracked(step.outputs[0])
    for run, (old, new) in enumerate(matching_runs(before, after)):
        tracked = [d for d in old if dims[d] is not None and before[d] > 1]
        wide = [d for d in new if after[d] > 1]
        if tracked and wide:
            _run(t, step, run, ([(dims[d], before[d]) for d in old if before[d] > 1], wide), result)
    return result


def _run(t: Tracer, step: Step, run: int, parts: tuple, result: Dims) -> None:
    """Label one run of new dimensions from a run of old ones with as many entries."""
    old, wide = parts
    after = step.outputs[0].shape
    size = math.prod(after[d] for d in wide)
    flat: list[np.ndarray] = []
    inner = size
    for labels, width in old:
        inner //= width
        if labels is not None:
            flat.append(np.tile(labels.repeat(inner), size // (width * inner)))
    found = []
    inner = size
    for d in wide:
        inner //= after[d]
        place = np.arange(size) // inner % after[d]
        for labels in flat:
            own = labels[np.arange(after[d]) * inner]
            ties = _pairs(own[place], labels)
            few = after[d] < FEW
            fixed = labels[0] < t.inputs
            rank = (fixed, ties.size > 0, few, -after[d] if few else 0)
            found.append((rank, d, own, ties, labels))
    found = [option for option in found if not option[0][0]] or found  # an input's stay anyway
    exact = [option for option in found if not option[0][1]]
    options = exact or found
    place = _chosen(t, step, run, options, len(flat))
    _, d, own, ties, labels = options[place]
    if ties.size:
        t.tie(ties[0], ties[1], str(step))
    for other in flat:
        if other is not labels:
            t.fix(other, f"{step} mixes it with others")
    result[d] = own


def _pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What differs in `a` and `b`, `[2, n]`, each pair of labels once."""
    differ = a != b
    codes = np.unique(a[differ] * (b.max() + 1) + b[differ])
    return np.stack(np.divmod(codes, b.max() + 1))


def _chosen(t: Tracer, step: Step, run: int, options: list, inputs: int) -> int:
    """Which of the options holds the channels; what the module splits alike chooses alike."""
    key: tuple = (t.step, run, len(options))
    if inputs == 1:
        key = (step.module, len(options), step.outputs[0].shape[options[-1][1]])
    like = (re.sub(r"\d+", "", step.module), step.line, *key[1:])
    ranked = sorted(range(len(options)), key=lambda i: options[i][0])
    order = t.orders.setdefault(key, ranked)
    chosen = t.choices.get(key, 0)
    if len(options) > 1 and not options[order[0]][0][0]:
        labels = [options[i][-1] for i in order]
        t.splits.append(Split(key, like, t.step, labels, chosen, order.index(len(options) - 1)))
    return order[chosen]


@rule("permute")
def permute(t: Tracer, step: Step) -> Dims:
    dims = t.dims[step.values[0]]
    return [dims[d] for d in step.arg(1, "dims")]


@rule("transpose", "transpose_", "t", "t_", "numpy_T", "mT", "adjoint")
def transpose(t: Tracer, step: Step) -> Dims:
    dims = list(t.dims[step.values[0]])
    if len(dims) > 1:
        a, b = step.arg(1, "dim0", 0), step.arg(2, "dim1", 1)
        dims[a], dims[b] = dims[b], dims[a]
    return dims


@rule("channel_shuffle")
def channel_shuffle(t: Tracer, step: Step) -> Dims:
    """Every group loses its channels at the same places."""
    dims = list(t.dims[step.values[0]])
    if dims[1] is not None:
        each = dims[1].reshape(step.arg(1, "groups"), -1)
        for other in each[1:]:
            t.tie(each[0], other, str(step))
        dims[1] = each.T.flatten()
    return dims


@rule("view_as_real")
def view_as_real(t: Tracer, step: Step) -> Dims:
    return [*t.dims[step.values[0]], None]


@rule("view_as_complex")
def view_as_complex(t: Tracer, step: Step) -> Dims:
    dims = t.dims[step.values[0]]
    t.fix(dims[-1], f"{step} takes two for one number")
    return dims[:-1]


@rule("unsqueeze", "unsqueeze_")
def unsqueeze(t: Tracer, step: Step) -> Dims:
    dims = list(t.dims[step.values[0]])
    dims.insert(positive(step.arg(1, "dim"), len(dims) + 1), None)
    return dims


@rule("squeeze", "squeeze_")
def squeeze(t: Tracer, step: Step) -> Dims:
    shape = step.values[0].shape
    over = step.arg(1, "dim", range(len(shape)))
    over = {positive(d, len(shape)) for d in ([over] if isinstance(over, int) else over)}
    dims = t.dims[step.values[0]]
    gone = {d for d in over if shape[d] == 1}
    for d in gone:
        t.fix(dims[d], f"{step} drops it")
    return [labels for d, labels in enumerate(dims) if d not in gone]


@rule("expand", "broadcast_to")
def expand(t: Tracer, step: Step) -> Dims:
    """A tensor without channels, such as a mask, can have as many as what it meets.

    So can copies along the last dimension, such as of lengths: y / norm(y).expand_as(y).
    """
    x, shape = step.values[0], step.outputs[0].shape
    offset = len(shape) - len(x.shape)
    dims = [None] * offset + t.dims[x]
    empty = all(labels is None or n == 1 for labels, n in zip(t.dims[x], x.shape, strict=True))
    olds, last = (1,) * offset + x.shape, len(shape) - 1
    return [
        labels if old == shape[d] else t.fresh(shape[d]) if empty or d == last else None
        for d, (labels, old) in enumerate(zip(dims, olds, strict=True))
    ]


@rule("repeat", "tile")
def repeat(t: Tracer, step: Step) -> Dims:
    x, times = step.values[0], step.arg(1, "repeats")
    offset = len(times) - len(x.shape)
    dims: Dims = [None] * offset + t.dims[x]
    return [_tiled(labels, n) for labels, n in zip(dims, times, strict=True)]


def _tiled(labels: Labels, times: int) -> Labels:
    """Copies of one entry are no channels, such as those of a token for all samples."""
    if labels is None or (len(labels) == 1 < times):
        return None
    return np.tile(labels, times)


@rule("as_strided", "as_strided_")
def restrided(t: Tracer, step: Step) -> Dims | list[Dims]:
    """The same entries under other strides, as pooling to one pixel gives them; else unknown."""
    if not step.addresses_alike:
        return unknown(t, step)
    return list(t.dims[step.values[0]])
