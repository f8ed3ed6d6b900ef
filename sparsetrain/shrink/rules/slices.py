"""Operations that take tensors apart and put them together."""

from itertools import accumulate, pairwise

import numpy as np

from sparsetrain.shrink.labels import Dims, Tracer
from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.rules.registry import positive, rule


@rule("cat")
def cat(t: Tracer, step: Step) -> Dims:
    values = [v for v in step.values if v.shape != (0,)]
    if not values:
        return [None] * len(step.outputs[0].shape)
    along = positive(step.arg(1, "dim", 0), len(values[0].shape))
    why = f"{step} joins it to channels that cannot be followed"
    result = list(t.dims[values[0]])
    for other in values[1:]:
        for dim, labels in enumerate(t.dims[other]):
            if dim != along and (labels is not None or result[dim] is not None):
                result[dim] = t.tie(result[dim], labels, why)
    result[along] = _joined(t, [(v, t.dims[v][along]) for v in values], along)
    return result


def _joined(t: Tracer, parts: list, along: int):
    """Labels one after the other; where some have none, they get ones that cannot go."""
    if all(labels is None for _, labels in parts):
        return None
    each = []
    for value, labels in parts:
        if labels is None:
            labels = t.fresh(value.shape[along])
            t.fix(labels, "it is joined to channels that cannot be followed")
        each.append(labels)
    return np.concatenate(each)


@rule("stack")
def stack(t: Tracer, step: Step) -> Dims:
    values = step.values
    result = list(t.dims[values[0]])
    for other in values[1:]:
        for dim, labels in enumerate(t.dims[other]):
            if labels is not None or result[dim] is not None:
                result[dim] = t.tie(result[dim], labels, f"{step} mixes it with others")
    result.insert(positive(step.arg(1, "dim", 0), len(result) + 1), None)
    return result


@rule("slice")
def slice_(t: Tracer, step: Step) -> Dims:
    x = step.values[0]
    dims = list(t.dims[x])
    dim = positive(step.arg(1, "dim", 0), len(dims))
    if (labels := dims[dim]) is not None:
        start, end = step.arg(2, "start"), step.arg(3, "end")
        dims[dim] = labels[start : end : step.arg(4, "step", 1)]
        _parts_alike(t, step, (x, dim, range(len(labels))[start:end]))
    return dims


def _parts_alike(t: Tracer, step: Step, part: tuple[Value, int, range]) -> None:
    """Halves of the channels stay halves: once all of equal parts are taken, they are tied."""
    x, dim, taken = part
    parts = t.parts.setdefault((x, dim), {})
    parts[taken.start] = len(taken)
    labels = t.dims[x][dim]
    length = len(taken)
    if labels is None or length in (0, len(labels)) or set(parts.values()) != {length}:
        return
    if sorted(parts) == list(range(0, len(labels), length)):
        each = labels.reshape(-1, length)
        for other in each[1:]:
            t.tie(each[0], other, str(step))


@rule("narrow")
def narrow(t: Tracer, step: Step) -> Dims:
    dims = list(t.dims[step.values[0]])
    dim, start, length = (step.arg(i, n) for i, n in enumerate(("dim", "start", "length"), 1))
    if (labels := dims[dim]) is not None:
        dims[dim] = labels[start : start + length]
    return dims


@rule("split", "split_with_sizes", "unsafe_split", "chunk", "unsafe_chunk", "tensor_split")
def split(t: Tracer, step: Step) -> list[Dims]:
    """Parts of equal size keep equal sizes: they lose their channels together."""
    x = step.values[0]
    dim = positive(step.arg(2, "dim", 0), len(x.shape))
    whole, sizes = t.dims[x][dim], [v.shape[dim] for v in step.outputs]
    parts = [None] * len(sizes)
    if whole is not None:
        ends = [0, *accumulate(sizes)]
        parts = [whole[a:b] for a, b in pairwise(ends)]
        if len(set(sizes)) == 1:
            for part in parts[1:]:
                t.tie(parts[0], part, str(step))
    return [[p if d == dim else n for d, n in enumerate(t.dims[x])] for p in parts]


@rule("glu")
def glu(t: Tracer, step: Step) -> Dims:
    """One half gates the other."""
    dims = list(t.dims[step.values[0]])
    dim = positive(step.arg(1, "dim", -1), len(dims))
    if (labels := dims[dim]) is not None:
        first, second = labels.reshape(2, -1)
        dims[dim] = t.tie(first, second, str(step))
    return dims


@rule("constant_pad_nd", "pad", "reflection_pad2d", "replication_pad2d", "reflection_pad1d")
def pad(t: Tracer, step: Step) -> Dims:
    """Channels of zeros are as many as what they meet; padded positions are none."""
    x = step.values[0]
    amounts = list(step.arg(1, "pad"))
    dims = list(t.dims[x])
    for i in range(len(amounts) // 2):
        d, (left, right) = len(dims) - 1 - i, amounts[2 * i : 2 * i + 2]
        labels = dims[d]
        if (left, right) == (0, 0) or labels is None:
            continue
        if left < 0 or right < 0:
            t.fix(labels, f"{step} crops it")
            dims[d] = None
        else:
            before, after = t.fresh(left), t.fresh(right)
            if left == right:  # (more // 2, more - more // 2)
                t.tie(before, after, str(step))
            dims[d] = np.concatenate([before, labels, after])
    return dims


@rule("roll", "flip")
def rolled(t: Tracer, step: Step) -> Dims:
    """Positions that turn round; channels must not."""
    dims = list(t.dims[step.values[0]])
    over = step.arg(2, "dims", None) if step.op.overloadpacket.__name__ == "roll" else step.args[1]
    for d in [over] if isinstance(over, int) else over or range(len(dims)):
        t.fix(dims[d], f"{step} puts it elsewhere")
    return dims
