"""Cut channels out of a model, in place.

Parameters, buffers, gradients, optimizer state, masks and EMA copies keep their identity: the same
tensor objects get smaller data, so whoever holds them (optimizer, hooks, scheduler) goes on.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.ops import gather_channels
from sparsetrain.optim import Masked, state_like
from sparsetrain.shrink.graph import Graph, named_tensor

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
        self._modules: list[nn.Module] = []

    def undo(self) -> None:
        """Put every tensor and attribute back."""
        for tensor, data in reversed(self._before):
            _set_data(tensor, data)
        for module in self._modules:
            set_sizes(module)

    def shrink(self, tensors: list[Tensor], rows: Tensor | None, cols: Tensor | None) -> None:
        """Keep `rows` and `cols` of tensors of one shape, all in one pass."""
        data = [t.data for t in tensors]
        rows, cols = (i if i is None else i.to(data[0].device) for i in (rows, cols))
        for tensor, old, new in zip(tensors, data, gather_channels(data, rows, cols), strict=True):
            self._before.append((tensor, old))
            _set_data(tensor, new)

    def resize(self, module: nn.Module) -> None:
        self._modules.append(module)
        set_sizes(module)


def cut_channels(model: nn.Module, graph: Graph, kept: Kept, attached: Attachments) -> Cut:
    """Remove all channels that are not in `kept`; on an error everything is as it was."""
    cut = Cut()
    try:
        with torch.no_grad():
            for name, by_dim in entries(graph, kept).items():
                rows, cols = by_dim.get(0), by_dim.get(1)
                for tensors in _together(model, name, attached):
                    cut.shrink(tensors, rows, cols)
        for root in [model, *([attached.ema] if attached.ema is not None else [])]:
            for module in root.modules():
                cut.resize(module)
    except BaseException:
        cut.undo()
        raise
    return cut


def entries(graph: Graph, kept: Kept) -> dict[str, dict[int, Tensor]]:
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


@contextmanager
def masked(model: nn.Module, graph: Graph, kept: Kept) -> Iterator[None]:
    """The model with removed channels cut where layers read them, at full size, for a while."""
    before: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for group in graph.free:
                gone = torch.ones(group.width, dtype=torch.bool)
                gone[kept[group.name]] = False
                for member in group.members if gone.any() else ():
                    if member.consumes:
                        tensor = named_tensor(model, member.tensor)
                        before.append((tensor, tensor.data))
                        where = member.index[gone].flatten().to(tensor.device)
                        tensor.data = tensor.data.index_fill(member.dim, where, 0.0)
        yield
    finally:
        for tensor, data in reversed(before):
            tensor.data = data


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
            _set_data(tensor, empty.to(memory_format=format_) if len(new) == 4 else empty)
    for module in model.modules():
        set_sizes(module)


def set_sizes(module: nn.Module) -> None:
    """Make a layer's attributes (`out_channels`, `num_features`, ...) say what its tensors are."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        held = module.running_mean if weight is None else weight
        if held is not None:
            module.num_features = held.shape[0]


def _together(model: nn.Module, name: str, attached: Attachments) -> Iterator[list[Tensor]]:
    """Tensors that are cut alike and may be cut in one pass: one list a device and shape."""
    tensor = named_tensor(model, name)
    state = state_like(attached.optimizer, tensor)
    grad = [] if tensor.grad is None else [tensor.grad]
    masks = [attached.masks[name]] if name in attached.masks else []
    held = attached.optimizer.mask_of(tensor) if isinstance(attached.optimizer, Masked) else None
    if held is not None and all(held is not mask for mask in masks):
        masks.append(held)
    yield [tensor, *grad, *state, *masks]
    if attached.ema is not None:
        inner = getattr(attached.ema, "module", attached.ema)
        yield [named_tensor(inner, name)]


def _set_data(tensor: Tensor, data: Tensor) -> None:
    # autograd keeps a leaf's accumulator, with its old shape, as long as some graph is alive;
    # it drops it when the dtype changes, so pass through another dtype.
    other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
    if tensor.is_floating_point():
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
