"""Cut channels out of a model, in place.

Parameters, buffers, gradients, optimizer state, masks and EMA copies keep their identity: the same
tensor objects get smaller data, so whoever holds them (optimizer, hooks, scheduler) goes on. Only
hooks on autograd's own node of a parameter are lost, for the node is another one then.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.ops import gather_channels
from sparsetrain.optim import set_data_
from sparsetrain.shrink.attached import Together
from sparsetrain.shrink.attributes import heads_by_module, tensor_sizes
from sparsetrain.shrink.changes import REMOVAL, remember, removal_of
from sparsetrain.shrink.graph import Graph
from sparsetrain.shrink.held import hold, plain_part
from sparsetrain.shrink.needs import Numbers, changed_numbers
from sparsetrain.shrink.pretrained import with_own_config
from sparsetrain.shrink.reducers import rebuild_reducers
from sparsetrain.shrink.small import Small, Stays
from sparsetrain.shrink.terms import Held
from sparsetrain.support.modes import quietly
from sparsetrain.support.wrapped import bare, unwrapped

Index = Tensor | None
MISSING = object()  # stands for an attribute that was not there
Kept = Mapping[str, Tensor]  # group name -> channels that stay, `[kept]` int64, ascending


class Cut:
    """A removal that was carried out, with everything that `undo` needs."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before: list[tuple[Tensor, Tensor]] = []
        self._attributes: list[tuple[nn.Module, str, Any]] = []
        self.factors: dict[str, Tensor] = {}  # parameter -> by what its entries were multiplied
        self._multiplied: list[tuple[Tensor, Tensor]] = []
        self._numbers: list[tuple[nn.Module, Held, Any]] = []

    def undo(self) -> None:
        """Put every tensor and attribute back."""
        self.unmultiply()
        for tensor, data in reversed(self._before):
            set_data_(tensor, data)
        self.release(0)
        for module, name, value in reversed(self._attributes):
            if value is MISSING:
                vars(module).pop(name, None)
            else:
                setattr(module, name, value)
        rebuild_reducers(self._model)

    def shrink(self, tensors: list[Tensor], stays: list[dict[int, Tensor]]) -> None:
        """Keep `stays[i]` of `tensors[i]`, rows and columns of a device's tensors in one pass."""
        dense = [i for i, t in enumerate(tensors) if t.layout == torch.strided]
        for i in set(range(len(tensors))).difference(dense):  # an embedding's sparse gradient
            self.replace(tensors[i], _selected(tensors[i].data, stays[i]))
        for device in dict.fromkeys(tensors[i].device for i in dense):
            mine = [i for i in dense if tensors[i].device == device]
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
                deeper = {dim: stay for dim, stay in stays[i].items() if dim > 1}
                self.replace(tensors[i], _selected(new, deeper))

    def replace(self, tensor: Tensor, data: Tensor) -> None:
        self._before.append((tensor, tensor.data))
        set_data_(tensor, data)

    def put(self, module: nn.Module, name: str, value: Any = MISSING) -> None:
        """Set an attribute of the module's own, or take it away."""
        self._attributes.append((module, name, vars(module).pop(name, MISSING)))
        if value is not MISSING:
            vars(module)[name] = value

    @property
    def held(self) -> int:
        """How many numbers were set."""
        return len(self._numbers)

    def release(self, since: int) -> None:
        """Put back the numbers that were set when so many were."""
        for model, place, number in reversed(self._numbers[since:]):
            hold(model, place, number)
        del self._numbers[since:]

    def multiply(self, name: str, tensors: list[tuple[Tensor, int]], factor: Tensor) -> None:
        """Multiply a parameter and what has its values, each by a power of one factor an entry."""
        self.factors[name] = factor
        for tensor, power in tensors:
            self._multiplied.append((tensor, tensor.data))
            set_data_(tensor, tensor.data * (factor**power).to(tensor))

    def unmultiply(self) -> None:
        """Take all factors back."""
        for tensor, data in reversed(self._multiplied):
            set_data_(tensor, data)
        self._multiplied.clear()
        self.factors.clear()

    def resize(self, module: nn.Module, sizes: Mapping[str, Any]) -> None:
        """Set attributes."""
        for name, value in sizes.items():
            self._attributes.append((module, name, getattr(module, name)))
            setattr(module, name, value)

    def note(self, module: nn.Module, names: Iterable[str], **about: Any) -> None:
        """Remember on a module what has changed in it that its state_dict does not say."""
        self._attributes.append((module, REMOVAL, removal_of(module)))
        remember(module, names, **about)

    def hold(self, model: nn.Module, numbers: Numbers) -> None:
        """Set numbers that modules keep, wherever they do."""
        for place, number in numbers.items():
            self._numbers.append((model, place, hold(model, place, number)))
            self.note(model.get_submodule(place.module), [plain_part(model, place)])


def cut_channels(together: Together, kept: Kept) -> Cut:
    """Remove all channels that are not in `kept`; on an error everything is as it was."""
    model, graph, average = together.model, together.graph, together.average
    cut, stay = Cut(model), entries(graph, kept)
    small = Small(graph.walk, stay)
    numbers, heads = changed_numbers(model, small), heads_by_module(model, small)
    cuts = [(tensor, by_dim) for name, by_dim in stay.items() for tensor in together.of(name)]
    numbered = {name: together.of(name) for name in small.walk.tracer.numbers}
    try:
        with torch.inference_mode(False), torch.no_grad():
            cut.shrink(
                [tensor for tensor, _ in cuts],
                [{d: i for d, i in by_dim.items() if t.shape[d] > 1} for t, by_dim in cuts],
            )
            _renumber(cut, small, numbered)
        _resize(cut, model, heads)
        _own_config(cut, model)
        cut.hold(model, numbers)
        _note_buffers(cut, model, stay.keys() | numbered)
        if average is not None:
            _resize(cut, average, _same_modules(heads, model, average))
            _own_config(cut, average)
            cut.hold(average, _unwrapped(numbers, model))
            _note_buffers(cut, average, {bare(model, n) for n in stay.keys() | numbered})
    except BaseException:
        cut.undo()
        raise
    return cut


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

    Torch's layers say their new widths; those that other modules keep are in `shrink.changes`.

    Raises:
        ValueError: a name is unknown or missing, or a tensor would have to grow; nothing changed.
    """
    check_like(model, shapes)
    for name, tensor in _tensors(model).items():
        new = tuple(shapes[name])
        if tensor.shape != new:
            order = sorted(range(tensor.dim()), key=lambda d: -tensor.stride(d))  # channels_last
            empty = torch.empty_permuted(new, order, dtype=tensor.dtype, device=tensor.device)
            set_data_(tensor, empty)
            tensor.grad = None
    for module in reversed(list(model.modules())):
        for name, value in tensor_sizes(module).items():
            setattr(module, name, value)


def check_like(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """
    Raises:
        ValueError: a name is unknown or missing, or a tensor would have to grow.
    """
    own = _tensors(model)
    if missing := sorted(own.keys() ^ shapes.keys()):
        raise ValueError(f"the saved model and this one differ in {_some(missing)}")
    for name, tensor in own.items():
        old, new = tuple(tensor.shape), tuple(shapes[name])
        if len(old) != len(new) or any(n > o for n, o in zip(new, old, strict=True)):
            raise ValueError(f"{name} is {list(new)} in the saved model and {list(old)} in this")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Those of its state, without what else modules may put there."""
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _renumber(cut: Cut, small: Small, numbered: Mapping[str, list[Tensor]]) -> None:
    """Buffers that hold numbers of channels hold those that they have now."""
    for name, tensors in numbered.items():
        alive = torch.from_numpy(~small.dead(small.walk.tracer.numbers[name]))
        now = alive.cumsum(0) - 1
        for tensor in tensors if not alive.all() else ():
            cut.replace(tensor, now.to(tensor)[tensor])


def _resize(cut: Cut, model: nn.Module, heads: Mapping[nn.Module, int]) -> None:
    with quietly(model, training=False):  # where weights are computed, reading one may count
        for module in reversed(list(model.modules())):  # what a whole says hangs on its parts
            cut.resize(module, tensor_sizes(module, heads.get(module, 0)))
            if module in heads:
                cut.note(module, ["num_heads"])


def _own_config(cut: Cut, model: nn.Module) -> None:
    for module, held in with_own_config(unwrapped(model)[0]).items():
        cut.resize(module, held)


def _note_buffers(cut: Cut, model: nn.Module, names: Iterable[str]) -> None:
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if leaf in module._non_persistent_buffers_set:
            cut.note(module, [leaf])


def _same_modules(
    heads: Mapping[nn.Module, int], model: nn.Module, copy: nn.Module
) -> dict[nn.Module, int]:
    names = {module: name for name, module in unwrapped(model)[0].named_modules()}
    return {copy.get_submodule(names[module]): found for module, found in heads.items()}


def _unwrapped(numbers: Numbers, model: nn.Module) -> Numbers:
    """The same places in what the model's wrappers hold."""
    _, prefix = unwrapped(model)
    return {
        Held(f"{place.module}.".removeprefix(prefix).removesuffix("."), place.path): number
        for place, number in numbers.items()
    }


def _selected(tensor: Tensor, stays: dict[int, Tensor]) -> Tensor:
    for dim, stay in stays.items():
        tensor = tensor.index_select(dim, stay.to(tensor.device))
    return tensor


def _moved(indices: list[Index], device: torch.device) -> list[Index]:
    """Indices on a device, by one copy; what was one index stays one."""
    each = {id(i): i for i in indices if i is not None}
    if device.type == "cpu" or not each:
        return indices
    parts = torch.cat(list(each.values())).to(device).split([len(i) for i in each.values()])
    there = dict(zip(each, parts, strict=True))
    return [i if i is None else there[id(i)] for i in indices]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
