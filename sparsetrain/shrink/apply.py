"""Cut channels out of a model, in place.

Parameters, buffers, gradients, optimizer state, masks and EMA copies keep their identity: the same
tensor objects get smaller data, so whoever holds them (optimizer, hooks, scheduler) goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sparsetrain.modes import quietly
from sparsetrain.ops import gather_channels
from sparsetrain.optim import Masked, set_data_, state_like
from sparsetrain.shrink.attributes import Sizes, tensor_sizes, traced_sizes
from sparsetrain.shrink.graph import Graph, named_tensor
from sparsetrain.shrink.small import Small, Stays

Index = Tensor | None
Kept = Mapping[str, Tensor]  # group name -> channels that stay, `[kept]` int64, ascending


@dataclass
class Attachments:
    """What must shrink together with the model's own tensors."""

    optimizer: Optimizer | None = None
    ema: nn.Module | None = None  # a copy of the model, or an AveragedModel around one
    masks: dict[str, Tensor] = field(default_factory=dict)  # parameter name -> bool mask


class Cut:
    """A removal that was carried out, with everything that `undo` needs."""

    def __init__(self) -> None:
        self._before: list[tuple[Tensor, Tensor]] = []
        self._attributes: list[tuple[nn.Module, str, Any]] = []

    def undo(self) -> None:
        """Put every tensor and attribute back."""
        for tensor, data in reversed(self._before):
            set_data_(tensor, data)
        for module, name, value in reversed(self._attributes):
            setattr(module, name, value)

    def shrink(self, tensors: list[Tensor], stays: list[dict[int, Tensor]]) -> None:
        """Keep `stays[i]` of `tensors[i]`, rows and columns of a device's tensors in one pass."""
        for device in dict.fromkeys(t.device for t in tensors):
            mine = [i for i, t in enumerate(tensors) if t.device == device]
            ends = [stays[i].get(dim) for dim in (0, 1) for i in mine]
            on_device = _moved(ends, device)
            # check: their shapes are the graph's, and so the indices are in range.
            kept = gather_channels(
                [tensors[i].data for i in mine],
                on_device[: len(mine)],
                on_device[len(mine) :],
                check=False,
            )
            for i, new in zip(mine, kept, strict=True):
                for dim, stay in stays[i].items():
                    new = new.index_select(dim, stay.to(device)) if dim > 1 else new
                self.replace(tensors[i], new)

    def replace(self, tensor: Tensor, data: Tensor) -> None:
        self._before.append((tensor, tensor.data))
        set_data_(tensor, data)

    def resize(self, module: nn.Module, sizes: Mapping[str, Any]) -> None:
        """Set attributes."""
        for name, value in sizes.items():
            self._attributes.append((module, name, getattr(module, name)))
            setattr(module, name, value)


def cut_channels(model: nn.Module, graph: Graph, kept: Kept, attached: Attachments) -> Cut:
    """Remove all channels that are not in `kept`; on an error everything is as it was."""
    cut = Cut()
    stay = entries(graph, kept)
    small = Small(graph.walk, stay)
    sizes = traced_sizes(model, small)
    try:
        with torch.no_grad():
            tensors: list[Tensor] = []
            stays: list[dict[int, Tensor]] = []
            for name, by_dim in stay.items():
                together = _together(model, name, attached, graph.shapes[name])
                tensors += together
                stays += [by_dim] * len(together)
            cut.shrink(tensors, stays)
            _renumber(cut, model, small, attached)
        _resize(cut, model, sizes)
        if attached.ema is not None:
            average = getattr(attached.ema, "module", attached.ema)
            _resize(cut, average, _same_modules(sizes, model, average))
    except BaseException:
        cut.undo()
        raise
    return cut


def rebuild_reducers(model: nn.Module) -> None:
    """Let DistributedDataParallel make its buckets anew, for parameters that have other sizes.

    By what it does itself when a pickled one comes back.
    """
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            parameters, sparse = module._build_params_for_reducer()
            names = module._build_debug_param_to_name_mapping(parameters)
            module._ddp_init_helper(parameters, sparse, names, module.static_graph)


def entries(graph: Graph, kept: Kept) -> Stays:
    """Tensor name -> {dimension: entries that stay, `[n]` int64}, where anything goes."""
    stays: dict[str, dict[int, Tensor]] = {}
    for group in graph.free:
        gone = torch.ones(group.width, dtype=torch.bool)
        gone[kept[group.name]] = False
        for member in group.members if gone.any() else ():
            size = graph.shapes[member.tensor][member.dim]
            stay = stays.setdefault(member.tensor, {}).setdefault(
                member.dim, torch.ones(size, dtype=torch.bool)
            )
            stay[member.index[gone].flatten()] = False
    return {
        name: {dim: stay.nonzero().flatten() for dim, stay in by_dim.items()}
        for name, by_dim in stays.items()
    }


def resize_like(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give parameters and buffers the shapes of a shrunk model, to load its state into them.

    Raises:
        ValueError: a name is unknown or missing, or a tensor would have to grow.
    """
    own = model.state_dict(keep_vars=True)
    if missing := sorted(own.keys() ^ shapes.keys()):
        raise ValueError(f"the saved model and this one differ in {_some(missing)}")
    for name, tensor in own.items():
        old, new = tuple(tensor.shape), tuple(shapes[name])
        if len(old) != len(new) or any(n > o for n, o in zip(new, old, strict=True)):
            raise ValueError(f"{name} is {list(new)} in the saved model and {list(old)} in this")
        if old != new:
            format_ = torch.channels_last if _is_channels_last(tensor) else torch.contiguous_format
            empty = torch.empty(new, dtype=tensor.dtype, device=tensor.device)
            set_data_(tensor, empty.to(memory_format=format_) if len(new) == 4 else empty)
    for module in model.modules():
        for name, value in tensor_sizes(module).items():
            setattr(module, name, value)


def _renumber(cut: Cut, model: nn.Module, small: Small, attached: Attachments) -> None:
    """Buffers that hold numbers of channels hold those that they have now."""
    for name, labels in small.walk.tracer.numbers.items():
        alive = torch.from_numpy(~small.dead(labels))
        if not alive.all():
            now = alive.cumsum(0) - 1
            tensors = _together(model, name, attached, tuple(named_tensor(model, name).shape))
            for tensor in tensors:
                cut.replace(tensor, now.to(tensor)[tensor])


def _resize(cut: Cut, model: nn.Module, sizes: Sizes) -> None:
    with quietly(model, training=False):  # where weights are computed, reading one may count
        for module in model.modules():
            cut.resize(module, tensor_sizes(module) | sizes.get(module, {}))


def _same_modules(sizes: Sizes, model: nn.Module, copy: nn.Module) -> Sizes:
    names = {module: name for name, module in model.named_modules()}
    return {copy.get_submodule(names[module]): found for module, found in sizes.items()}


def _together(
    model: nn.Module, name: str, attached: Attachments, shape: tuple[int, ...]
) -> list[Tensor]:
    """Tensors that are cut alike: a parameter or buffer and all that belongs to it."""
    tensor = named_tensor(model, name)
    found = {"the model's": [tensor], "the optimizer's": state_like(attached.optimizer, tensor)}
    found["the gradient's"] = [] if tensor.grad is None else [tensor.grad]
    masks = [attached.masks[name]] if name in attached.masks else []
    held = attached.optimizer.mask_of(tensor) if isinstance(attached.optimizer, Masked) else None
    if held is not None and all(held is not mask for mask in masks):
        masks.append(held)
    found["the mask's"] = masks
    if attached.ema is not None:
        inner = getattr(attached.ema, "module", attached.ema)
        found["the average's"] = [named_tensor(inner, name)]
    for whose, tensors in found.items():
        for t in tensors:
            if tuple(t.shape) != tuple(shape):
                raise ValueError(f"{name}: {whose} shape is {list(t.shape)}, not {list(shape)}")
    return [t for tensors in found.values() for t in tensors]


def _moved(indices: list[Index], device: torch.device) -> list[Index]:
    """Indices on a device, by one copy; what was one index stays one."""
    each = {id(i): i for i in indices if i is not None}
    if device.type == "cpu" or not each:
        return indices
    parts = torch.cat(list(each.values())).to(device).split([len(i) for i in each.values()])
    there = dict(zip(each, parts, strict=True))
    return [i if i is None else there[id(i)] for i in indices]


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
