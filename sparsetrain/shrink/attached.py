"""What goes along when channels go: gradients, optimizer state, masks, averaged copies.

What belongs to a parameter entry by entry has its shape. State may also have 1 where the parameter
has more, as Adafactor's factors of rows and columns: it loses entries of the other dimensions. What
an optimizer keeps besides, of more than one number, nobody can cut: it is refused beforehand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from sparsetrain.optim import Masked
from sparsetrain.shrink.graph import Graph, named_tensor
from sparsetrain.support.nearest import unknown
from sparsetrain.support.wrapped import bare, bare_parameters, unwrapped


@dataclass
class Attachments:
    """What must shrink together with the model's own tensors."""

    optimizer: Optimizer | Sequence[Optimizer] | None = None
    ema: nn.Module | None = None  # a copy of the model, or an AveragedModel around one
    masks: dict[str, Tensor] = field(default_factory=dict)  # parameter name -> bool mask

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """All of them, those included that others wrap."""
        given = () if self.optimizer is None else self.optimizer
        outer = tuple(given) if isinstance(given, Sequence) else (given,)
        for optimizer in outer:
            if not isinstance(optimizer, Optimizer):
                raise TypeError(f"apply: {type(optimizer).__name__} is no optimizer")
        inner = (o for held in outer for o in vars(held).values() if isinstance(o, Optimizer))
        return (*outer, *inner)


class Together:
    """Finds the tensors that are cut like one of the model's.

    Raises:
        ValueError: the model is no longer what was planned, something attached is not its own, or
            an optimizer keeps what cannot be cut; nothing is changed.
    """

    def __init__(self, model: nn.Module, graph: Graph, attached: Attachments | None = None) -> None:
        attached = attached or Attachments()
        self.model, self.graph = model, graph
        self.average = None if attached.ema is None else average_of(attached.ema, model)
        self._optimizers = attached.optimizers
        self._own = {id(t) for t in (*model.parameters(), *model.buffers())}
        self._masks = _by_parameter(model, attached.masks)
        _check_unchanged(model, graph)
        for optimizer in self._optimizers:
            _check_optimizer(optimizer, model)

    def of(self, name: str) -> list[Tensor]:
        """The model's tensor of this name, and all that belongs to it entry by entry."""
        tensor, shape = named_tensor(self.model, name), self.graph.shapes[name]
        found = {
            "the model's": [tensor],
            "the gradient's": [] if tensor.grad is None else [tensor.grad],
            "the mask's": self._masks.get(id(tensor), []) + self._held_masks(tensor),
            "the average's": self._averaged(name),
        }
        for whose, tensors in found.items():
            for t in tensors:
                if tuple(t.shape) != tuple(shape):
                    raise ValueError(f"{name}: {whose} shape is {list(t.shape)}, not {list(shape)}")
        every = [*(t for ts in found.values() for t in ts), *self._kept_with(tensor)]
        return list({id(t): t for t in every}.values())

    def multiplied(self, name: str) -> list[tuple[Tensor, int]]:
        """The model's tensor and all that is multiplied with it, each by a power of the factor."""
        tensor = named_tensor(self.model, name)
        averaged = [(each, 1) for each in self._averaged(name)]
        return [(tensor, 1), *averaged, *([] if tensor.grad is None else [(tensor.grad, -1)])]

    def _held_masks(self, tensor: Tensor) -> list[Tensor]:
        held = [o.mask_of(tensor) for o in self._optimizers if isinstance(o, Masked)]
        return [mask for mask in held if mask is not None]

    def _kept_with(self, tensor: Tensor) -> Iterator[Tensor]:
        """Optimizer state, and what a user hung on the parameter in its shape."""
        for optimizer in self._optimizers:
            state = optimizer.state.get(tensor, {})
            yield from (t for t in state.values() if isinstance(t, Tensor) and t.numel() > 1)
        for mine in vars(tensor).values():
            like = isinstance(mine, Tensor) and mine.shape == tensor.shape
            if like and id(mine) not in self._own:
                yield mine

    def _averaged(self, name: str) -> list[Tensor]:
        if self.average is None:
            return []
        _, prefix = unwrapped(self.model)
        try:
            return [named_tensor(self.average, name.removeprefix(prefix))]
        except AttributeError as error:
            raise ValueError(f"apply: ema is no copy of the model: {error}") from error


def average_of(ema: Any, model: nn.Module) -> nn.Module:
    """The averaged copy of the model; other wrappers than torch's call it `module`, too."""
    if not isinstance(ema, nn.Module):
        raise TypeError(f"apply: ema must be a module, got {type(ema).__name__}")
    inside, _ = unwrapped(ema)
    alike = type(inside) is type(unwrapped(model)[0])
    return inside if alike else getattr(inside, "module", inside)


def _by_parameter(model: nn.Module, masks: dict[str, Tensor]) -> dict[int, list[Tensor]]:
    """Masks by the identity of their parameter, which may have several names."""
    named = bare_parameters(model, remove_duplicate=False)
    found: dict[int, list[Tensor]] = {}
    for name, mask in masks.items():
        parameter = named.get(bare(model, name))
        if parameter is None:
            raise unknown("parameter to mask", name, named, listed=False)
        found.setdefault(id(parameter), []).append(mask)
    return found


def _check_unchanged(model: nn.Module, graph: Graph) -> None:
    """The model's tensors are those that were planned, and none shares another's memory."""
    place: dict[int, str] = {}
    cut = {member.tensor for group in graph.free for member in group.members} & graph.trainable
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        planned = graph.shapes.get(name, tuple(tensor.shape))
        if tuple(tensor.shape) != tuple(planned):
            raise ValueError(
                f"plan: {name} is {list(tensor.shape)}, but {list(planned)} when this was planned;"
                " plan anew"
            )
        if tensor.numel() > 1 and tensor.layout == torch.strided:
            first = place.setdefault(tensor.data_ptr() or id(tensor), name)
            if first != name and cut & {first, name} and graph.trainable >= {first, name}:
                raise ValueError(
                    f"plan: {first} and {name} are two parameters in the same memory, and would no"
                    " longer be; tie them as one Parameter under two names"
                )


def _check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    who = type(optimizer).__name__
    names = {id(p): name for name, p in model.named_parameters()}
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    if trained and all(id(p) not in names for p in trained):
        raise ValueError(f"apply: {who} trains no parameter of this {type(model).__name__}")
    if getattr(optimizer, "parameters_as_bucket_view", False):
        raise ValueError(f"apply: {who} keeps its parameters in buckets of their present sizes")
    for owner, state in optimizer.state.items():
        whole = isinstance(owner, Tensor)
        if whole and id(owner) not in names:
            continue  # another model's
        shape = tuple(owner.shape) if whole else ()
        for key, value in state.items() if isinstance(state, dict) else (("state", state),):
            for t in (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)):
                if t.numel() > 1 and not (t is value and _fits(t, shape)):
                    raise ValueError(
                        f"apply: {who} keeps {key!r} of shape {list(t.shape)} with"
                        f" {names.get(id(owner), 'no parameter')} of shape {list(shape)}, which"
                        " cannot shrink along; clear its state before, or make it anew afterwards"
                    )


def _fits(state: Tensor, shape: tuple[int, ...]) -> bool:
    return state.dim() == len(shape) and all(
        n in (1, whole) for n, whole in zip(state.shape, shape, strict=True)
    )
