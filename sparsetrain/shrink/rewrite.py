"""A step in a smaller network: the sizes that it mentions change."""

from collections.abc import Callable
from typing import Any

import torch

from sparsetrain.shrink.graph import whole_groups
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.small import Small

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]  # operation, arguments, keyword arguments
aten = torch.ops.aten


def rewritten(step: Step, small: Small) -> Call:
    """Its operation and arguments, Values as they are, and every width that of what stays."""
    rewrite = REWRITES.get(step.op.overloadpacket.__name__)
    return general(step) if rewrite is None else rewrite(step, small)


def general(step: Step) -> Call:
    """Its operation as recorded, or where that one was good for the sample alone, in general.

    A tensor that lies otherwise in memory may have no `view`. Of attention, what is chosen for a
    sample cannot learn a mask; it keeps its scale, whatever its width becomes.
    """
    if step.op is aten.view.default:
        return aten.reshape.default, step.args, dict(step.kwargs)
    if not step.op.overloadpacket.__name__.startswith("_scaled_dot_product"):
        return step.op, step.args, dict(step.kwargs)
    given = dict(zip((a.name for a in step.op._schema.arguments), step.args, strict=False))
    given |= step.kwargs
    mask = given.get("attn_mask", given.get("attn_bias"))
    tensors = (given["query"], given["key"], given["value"], mask)
    scale = given.get("scale")
    scale = given["query"].shape[-1] ** -0.5 if scale is None else scale
    options = {"is_causal": given.get("is_causal", False), "scale": scale}
    options["dropout_p"] = given.get("dropout_p", 0.0)
    options["enable_gqa"] = given["query"].shape[:-2] != given["key"].shape[:-2]
    return aten.scaled_dot_product_attention.default, tensors, options


def _with(step: Step, changes: dict[tuple[int, str], Any]) -> Call:
    """The same call with some arguments changed, each given by place and name."""
    op, given, kwargs = general(step)
    args = list(given)
    for (place, name), value in changes.items():
        if place < len(args):
            args[place] = value
        elif name in kwargs:
            kwargs[name] = value
    return op, tuple(args), kwargs


def _layer_norm(step: Step, small: Small) -> Call:
    count = len(step.arg(1, "normalized_shape"))
    shape = small.shape(step.args[0])[-count:]
    return _with(step, {(1, "normalized_shape"): shape})


def _group_norm(step: Step, small: Small) -> Call:
    before, after = step.args[0].shape[1], small.shape(step.args[0])[1]
    groups = step.arg(6, "group")
    groups = after if groups == before else groups
    return _with(step, {(4, "C"): after, (6, "group"): groups})


def _convolution(step: Step, small: Small) -> Call:
    groups, channels = step.arg(8, "groups"), step.args[0].shape[1]
    if groups > 1 and whole_groups(groups, channels // groups):
        groups = groups * small.shape(step.args[0])[1] // channels
    return _with(step, {(8, "groups"): groups})


def _shape(step: Step, small: Small) -> Call:
    """The argument after the tensor is the result's shape, in which -1 is for torch to find."""
    sizes = zip(step.arg(1, "size"), small.shape(step.outputs[0]), strict=True)
    return _with(step, {(1, "size"): [-1 if old == -1 else new for old, new in sizes]})


def _made(step: Step, small: Small) -> Call:
    return _with(step, {(0, "size"): small.shape(step.outputs[0])})


def _restrided(step: Step, small: Small) -> Call:
    if step.addresses_alike:
        return aten.alias.default, (step.args[0],), {}
    return step.op, step.args, dict(step.kwargs)


def _slice(step: Step, small: Small) -> Call:
    """Of what stays, the part that the slice took: a slice again, or else its places."""
    x, every = step.args[0], step.arg(4, "step", 1)
    dim = step.arg(1, "dim", 0) % len(x.shape)
    alive = small.alive(x).get(dim)
    if alive is None:
        return step.op, step.args, dict(step.kwargs)
    wanted = range(*slice(step.arg(2, "start"), step.arg(3, "end"), every).indices(x.shape[dim]))
    places = [i for i, entry in enumerate(alive.tolist()) if entry in wanted]
    if not places:
        return aten.slice.Tensor, (x, dim, 0, 0), {}
    gap = places[1] - places[0] if len(places) > 1 else 1
    if places == list(range(places[0], places[-1] + 1, gap)):
        return aten.slice.Tensor, (x, dim, places[0], places[-1] + 1, gap), {}
    return aten.index_select.default, (x, dim, torch.tensor(places)), {}


def _split(step: Step, small: Small) -> Call:
    dim = step.arg(2, "dim", 0) % len(step.args[0].shape)
    if dim not in small.alive(step.args[0]):
        return step.op, step.args, dict(step.kwargs)
    sizes = [small.shape(part)[dim] for part in step.outputs]
    if isinstance(step.arg(1, "split_size"), int) and len(set(sizes)) == 1:
        return _with(step, {(1, "split_size"): sizes[0]})
    return aten.split_with_sizes.default, (step.args[0], sizes, dim), {}


def _gather(step: Step, small: Small) -> Call:
    numbers = step.args[2]
    known = numbers.known
    if known is None or numbers.name is not None:
        return step.op, step.args, dict(step.kwargs)
    dim = step.arg(1, "dim") % len(step.args[0].shape)
    order = known.movedim(dim, -1).flatten(0, -2)[0] if known.dim() > 1 else known
    return _in_order(step, small, (dim, order))


def _index(step: Step, small: Small) -> Call:
    x, indices = step.args[:2]
    alive = small.alive(x)
    for dim, numbers in enumerate(indices):
        if numbers is not None and dim in alive and numbers.name is None:
            return _in_order(step, small, (dim, numbers.known))
    return step.op, step.args, dict(step.kwargs)


def _in_order(step: Step, small: Small, order: tuple[int, torch.Tensor]) -> Call:
    """Channels in a constant order: that of what stays."""
    x, (dim, numbers) = step.args[0], order
    if (alive := small.alive(x).get(dim)) is None:
        return step.op, step.args, dict(step.kwargs)
    now = torch.full((x.shape[dim],), -1)
    now[alive] = torch.arange(len(alive))
    left = now[numbers.cpu()]
    return aten.index_select.default, (x, dim, left[left >= 0].to(numbers)), {}


def _pad(step: Step, small: Small) -> Call:
    """Fewer channels of zeros, where some of those go."""
    amounts = list(step.arg(1, "pad"))
    x, alive = step.args[0], small.alive(step.outputs[0])
    for i in range(len(amounts) // 2):
        dim = len(x.shape) - 1 - i
        if dim in alive:
            left, size = amounts[2 * i], x.shape[dim]
            stays = alive[dim]
            amounts[2 * i] = int((stays < left).sum())
            amounts[2 * i + 1] = int((stays >= left + size).sum())
    return _with(step, {(1, "pad"): amounts})


REWRITES: dict[str, Callable[[Step, Small], Call]] = {
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "convolution": _convolution,
    **dict.fromkeys(("as_strided", "as_strided_"), _restrided),
    "slice": _slice,
    "constant_pad_nd": _pad,
    **dict.fromkeys(("gather", "index_select"), _gather),
    **dict.fromkeys(("index", "_unsafe_index"), _index),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "view_copy"), _shape),
    **dict.fromkeys(("expand", "expand_copy", "broadcast_to", "resize_"), _shape),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), _shape),
    **dict.fromkeys(("zeros", "ones", "full", "empty"), _made),
    **dict.fromkeys(("split", "unsafe_split", "split_with_sizes"), _split),
    **dict.fromkeys(("chunk", "unsafe_chunk", "unsafe_split_with_sizes"), _split),
}
