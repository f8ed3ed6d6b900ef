"""Operations that take entries by their numbers."""

import numpy as np
import torch

from sparsetrain.shrink.labels import Dims, Labels, Tracer
from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.rules.registry import positive, rule, untracked


@rule("select")
def select(t: Tracer, step: Step) -> Dims:
    dims = list(t.dims[step.values[0]])
    taken = dims.pop(positive(step.arg(1, "dim"), len(dims)))
    t.fix(taken, f"{step} takes one by its number")
    return dims


@rule("unbind")
def unbind(t: Tracer, step: Step) -> list[Dims]:
    dims = list(t.dims[step.values[0]])
    taken = dims.pop(positive(step.arg(1, "dim", 0), len(dims)))
    t.fix(taken, f"{step} takes one by its number")
    return [list(dims) for _ in step.outputs]


@rule("index", "_unsafe_index")
def index(t: Tracer, step: Step) -> Dims:
    """x[i, j, :]: dimensions that are indexed hold positions, or channels in a constant order."""
    x, indices = step.args[0], step.args[1]
    dims = list(t.dims[x])
    where = [d for d, i in enumerate(indices) if i is not None]
    if len(where) == 1 and (order := _order(t, x, indices[where[0]])) is not None:
        dims[where[0]] = _ordered(t, step, (dims[where[0]], indices[where[0]], order))
        return dims
    return [None if d is None else dims[d] for d in _picked(t, step)]


@rule("index_put", "index_put_", "_index_put_impl_")
def index_put(t: Tracer, step: Step) -> Dims:
    """x[i, j, :] = y: what is not indexed is in x what it is in y."""
    x, y = step.args[0], step.args[2]
    dims, places = list(t.dims[x]), _picked(t, step)
    for d, labels, size in zip(places[::-1], t.dims[y][::-1], y.shape[::-1], strict=False):
        if d is None:
            t.fix(labels, f"{step} puts it at places")
        elif size == x.shape[d]:
            dims[d] = t.tie(dims[d], labels, f"{step} mixes it with others")
    return dims


@rule("nonzero")
def nonzero(t: Tracer, step: Step) -> Dims:
    t.fix_all(step.values, f"{step} looks where it is zero")
    return untracked(step.outputs[0])


def _picked(t: Tracer, step: Step) -> list[int | None]:
    """The dimension of x that each dimension of x[i, j, :] is; None: numbers choose its places."""
    x, indices = step.args[0], step.args[1]
    chosen: list[int] = []
    rank = d = 0
    for i in indices:
        span = 1
        if i is not None:
            mask = i.dtype in (torch.bool, torch.uint8)
            span = len(i.shape) if mask else 1
            chosen += range(d, d + span)
            rank = max(rank, 1 if mask else len(i.shape))
        d += span
    for d in chosen:
        t.fix(t.dims[x][d], f"{step} takes entries by their number")
    rest = [d for d in range(len(x.shape)) if d not in chosen]
    together = bool(chosen) and chosen == list(range(chosen[0], chosen[-1] + 1))
    at = chosen[0] if together else 0
    return [*rest[:at], *[None] * rank, *rest[at:]]


@rule("index_select")
def index_select(t: Tracer, step: Step) -> Dims:
    x, numbers = step.values
    dims = list(t.dims[x])
    dim = positive(step.arg(1, "dim"), len(dims))
    order = _order(t, x, numbers)
    if order is None:
        t.fix(dims[dim], f"{step} takes entries by their number")
        dims[dim] = None
    else:
        dims[dim] = _ordered(t, step, (dims[dim], numbers, order))
    return dims


@rule("gather")
def gather(t: Tracer, step: Step) -> Dims:
    """Along its dimension a constant order that is the same everywhere, or positions."""
    x, numbers = step.values
    dims = list(t.dims[x])
    dim = positive(step.arg(1, "dim"), len(dims))
    for d in range(len(dims)):
        if d != dim and numbers.shape[d] != x.shape[d]:
            t.fix(dims[d], f"{step} takes some of its entries")
            dims[d] = None
    labels, known = dims[dim], numbers.known
    if labels is not None and known is not None and known.numel():
        rows = known.cpu().movedim(dim, -1).flatten(0, -2)
        if bool((rows == rows[0]).all()):
            dims[dim] = labels[rows[0].numpy()]
            return dims
    t.fix(dims[dim], f"{step} takes entries by their number")
    dims[dim] = None
    return dims


@rule("index_add", "index_copy")
def index_add(t: Tracer, step: Step) -> Dims:
    """Rows go to places that the data give; what they hold beside that stays where it is."""
    x, numbers, rows = step.values
    dims = list(t.dims[x])
    dim = positive(step.arg(1, "dim"), len(dims))
    why = f"{step} puts them at places by their number"
    t.fix_all([numbers], why)
    for d, labels in enumerate(t.dims[rows]):
        if d == dim:
            t.fix(dims[d], why)
            t.fix(labels, why)
        elif dims[d] is not None or labels is not None:
            dims[d] = t.tie(dims[d], labels, f"{step} mixes it with others")
    return dims


def _order(t: Tracer, x: Value, numbers: Value) -> np.ndarray | None:
    """Numbers that choose among the channels of a computed tensor, at every call the same."""
    if len(numbers.shape) != 1 or numbers.known is None or t.origin.get(x) is not None:
        return None
    return numbers.known.cpu().numpy()


def _ordered(t: Tracer, step: Step, taken: tuple[Labels, Value, np.ndarray]) -> Labels:
    """Labels in that order. A buffer that holds it is cut and renumbered along."""
    labels, numbers, order = taken
    if labels is None:
        return None
    if numbers.name is not None:
        t.tie(t.dims[numbers][0], labels[order], str(step))
        t.tie(labels, t.numbers.setdefault(numbers.name, labels), str(step))
    return labels[order]
