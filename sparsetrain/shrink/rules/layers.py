"""Convolutions, products of matrices, embeddings: where channels are read and made anew."""

import math

import numpy as np

from sparsetrain.shrink.graph import Layer, whole_groups
from sparsetrain.shrink.labels import Dims, Labels, Tracer
from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.rules.registry import rule, untracked

UNKNOWN = "reads an input that cannot be followed"


@rule("convolution", "_convolution", "mkldnn_convolution", "convolution_overrideable")
def convolution(t: Tracer, step: Step) -> Dims:
    x, weight, *bias = step.values
    transposed, groups = step.arg(6, "transposed"), step.arg(8, "groups")
    t.positions(weight, range(2, len(weight.shape)))
    t.weigh(weight)
    into, out = (0, 1) if transposed else (1, 0)
    made = _grouped(t, step, groups) if groups > 1 else t.dims[weight][out]
    if groups == 1:
        t.tie(t.dims[weight][into], t.dims[x][1], f"{step} {UNKNOWN}")
        t.cut(step, x, 1)
        t.consume(weight, into)
    for value in bias:
        made = t.tie(made, t.dims[value][0], "its bias cannot be followed")
    reader = x if transposed else step.outputs[0]  # each of whose entries meets one filter
    products = math.prod(reader.shape) * math.prod(weight.shape) // weight.shape[0]
    count_flops(t, weight, products)
    result = untracked(step.outputs[0])
    result[1] = made
    for d in range(2, len(x.shape)):
        if weight.shape[d] == 1 and x.shape[d] == step.outputs[0].shape[d]:
            result[d] = t.dims[x][d]  # each position by itself
        else:
            t.fix(t.dims[x][d], f"{step} has a kernel along it")
    return result


def _grouped(t: Tracer, step: Step, groups: int):
    """Labels of the output. Either whole groups go, or the same channels of every group."""
    x, weight = step.values[:2]
    transposed = step.arg(6, "transposed")
    read, own = t.dims[x][1], t.dims[weight]
    rows, columns = own[0], own[1]
    if columns is None and weight.shape[1] == 1:  # put in by the caller
        columns = t.fresh(1)
    if read is None or rows is None or columns is None:
        for labels in (read, rows, columns):
            t.fix(labels, f"{step} {UNKNOWN}")
        return None
    each_in = read.reshape(groups, -1)
    each_row = rows.reshape(groups, -1)  # filters; of a transposed one, inputs
    per_group = each_in.shape[1]
    if whole_groups(groups, per_group) and (t.whole_groups or per_group == 1):
        made = rows if not transposed else t.fresh(groups * weight.shape[1])
        t.fix(columns, f"{step} has groups of it")
        for part in (each_in, each_row, made.reshape(groups, -1)):
            for i in range(part.shape[1]):
                t.tie(each_in[:, 0], part[:, i], str(step))
        return made
    t.cut(step, x, 1)
    t.consume(weight, 0 if transposed else 1)
    for part in (each_in, each_row):
        for g in range(1, groups):
            t.tie(part[0], part[g], str(step))
    if not transposed:
        t.tie(each_in[0], columns, str(step))
        return rows
    t.tie(read, rows, str(step))
    return np.tile(columns, groups)


def count_flops(t: Tracer, weight: Value, products: int) -> None:
    """A layer whose weight is a parameter: how often a sample uses each of its entries."""
    if weight in t.origin:
        name = t.origin[weight][0]
        size = math.prod(len(d) for d in t.tensors[name] if d is not None)
        t.layers.append(Layer(name, max(1, products // (size * t.batch))))


@rule("mm", "bmm", "matmul", "mv", "dot", "vdot")
def product(t: Tracer, step: Step) -> Dims:
    a, b = step.values
    return _product(t, step, a, b)


@rule("addmm", "baddbmm", "addmv")
def product_and_sum(t: Tracer, step: Step) -> Dims:
    bias, a, b = step.values
    dims = _product(t, step, a, b)
    offset = len(dims) - len(bias.shape)
    for d, labels in enumerate(t.dims[bias]):
        if bias.shape[d] == step.outputs[0].shape[d + offset]:
            dims[d + offset] = t.tie(dims[d + offset], labels, f"{step} mixes it with others")
    return dims


def _product(t: Tracer, step: Step, a: Value, b: Value) -> Dims:
    """[..., M, K] times [..., K, N]."""
    inner_b = len(b.shape) - 2 if len(b.shape) > 1 else 0
    t.tie(t.dims[a][-1], t.dims[b][inner_b], f"{step} {UNKNOWN}")
    t.cut(step, a, len(a.shape) - 1)
    t.consume(a, len(a.shape) - 1)
    t.consume(b, inner_b)
    if b in t.fixed:  # rows times weights, or weights times columns
        t.weigh(b, rows=a)
    else:
        t.weigh(a)
    _note_query(t, step, a, b)
    products = math.prod(step.outputs[0].shape) * a.shape[-1]
    for value in (a, b):
        count_flops(t, value, products)
    dims = list(t.dims[a][:-1])
    computed = t.origin.get(a) is None and t.origin.get(b) is None
    for d in range(inner_b):  # a batch of matrices
        if computed and (heads := dims[d]) is not None:
            t.heads.append(heads)
        dims[d] = t.tie(dims[d], t.dims[b][d], f"{step} mixes it with others")
    return dims + (t.dims[b][-1:] if len(b.shape) > 1 else [])


def _note_query(t: Tracer, step: Step, a: Value, b: Value) -> None:
    """Of scores, the rows of a parameter that meets data, if it is no layer's weight."""
    asks = [v for v in (a, b) if v in t.fixed]
    if len(asks) == 1 and not any(n.endswith("weight") for n in t.origin.get(asks[0], ())):
        labels = t.dims[asks[0]][-2 if asks[0] is a else -1] if len(asks[0].shape) > 1 else None
        if labels is not None:
            t.queries[step.outputs[0]] = labels


@rule("_grouped_mm")
def grouped_product(t: Tracer, step: Step) -> list[Dims]:
    """Rows of `[M, K]` in runs, each times its own of several `[K, N]`: experts."""
    a, b, *_ = step.values
    if (len(a.shape), len(b.shape)) != (2, 3):
        t.fix_all(step.values, f"there is no rule for {step} of these shapes")
        return [untracked(step.outputs[0])]
    t.fix(t.dims[b][0], f"{step} takes one by its number")
    for labels in (t.dims[a][1], t.dims[b][2]):
        if labels is not None:  # rows begin where 16 bytes do
            t.multiples.append((labels, max(1, 16 // a.dtype.itemsize)))
    t.tie(t.dims[a][1], t.dims[b][1], f"{step} {UNKNOWN}")
    t.cut(step, a, 1)
    t.consume(a, 1)
    t.consume(b, 1)
    t.weigh(b)
    count_flops(t, b, math.prod(step.outputs[0].shape) * a.shape[1])
    return [[t.dims[a][0], t.dims[b][2]]]


@rule("_cdist_forward", "cdist", "_euclidean_dist")
def distances(t: Tracer, step: Step) -> Dims:
    """Between the rows of [..., M, K] and of [..., N, K], such as a codebook's."""
    a, b = step.values
    rank = len(step.outputs[0].shape)
    t.tie(t.dims[a][-1], t.dims[b][-1], f"{step} {UNKNOWN}")
    for value in (a, b):
        t.cut(step, value, len(value.shape) - 1)
        t.consume(value, len(value.shape) - 1)
        t.weigh(value)
    dims: Dims = untracked(step.outputs[0])
    for value in (a, b):
        for labels in t.dims[value][:-2]:
            t.fix(labels, f"{step} compares along it")
    dims[rank - 2], dims[rank - 1] = t.dims[a][-2], t.dims[b][-2]
    return dims


@rule("linear")
def linear(t: Tracer, step: Step) -> Dims:
    x, weight, *bias = step.values
    made, into = t.dims[weight]
    t.tie(into, t.dims[x][-1], f"{step} {UNKNOWN}")
    t.cut(step, x, len(x.shape) - 1)
    t.consume(weight, 1)
    t.weigh(weight, rows=x)
    for value in bias:
        made = t.tie(made, t.dims[value][0], "its bias cannot be followed")
    count_flops(t, weight, math.prod(step.outputs[0].shape) * weight.shape[1])
    return [*t.dims[x][:-1], made]


@rule("embedding")
def embedding(t: Tracer, step: Step) -> Dims:
    weight, where = step.values
    t.weigh(weight)
    t.fix(t.dims[weight][0], f"{step} looks it up by its number")
    for labels in t.dims[where]:
        t.fix(labels, f"{step} looks up what it numbers")
    return [*untracked(where), t.dims[weight][1]]


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(t: Tracer, step: Step) -> list[Dims]:
    weight = step.values[0]
    t.weigh(weight)
    t.fix_all(step.values[1:], f"{step} reads numbers there")
    t.fix(t.dims[weight][0], f"{step} looks it up by its number")
    return [[None, t.dims[weight][1]], *(untracked(out) for out in step.outputs[1:])]


@rule("_trilinear")
def trilinear(t: Tracer, step: Step) -> Dims:
    """Three tensors with dimensions of size 1 put in, multiplied, summed over some (bilinear)."""
    met: dict[int, Labels] = {}
    sizes: dict[int, int] = {}
    for value, put_in in zip(step.args[:3], step.args[3:6], strict=True):
        rank = len(value.shape) + len(put_in)
        for own, place in enumerate(d for d in range(rank) if d not in put_in):
            labels = t.dims[value][own]
            if place in met and (labels is not None or met[place] is not None):
                labels = t.tie(met[place], labels, f"{step} mixes it with others")
            met[place], sizes[place] = labels, value.shape[own]
            if place in step.args[6]:
                t.cut(step, value, own)
                t.consume(value, own)
                t.weigh(value)
    for value in step.args[:3]:
        count_flops(t, value, math.prod(sizes.values()))
    return [met[d] for d in sorted(met) if d not in step.args[6]]
