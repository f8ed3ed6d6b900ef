"""What sparsetrain's optimizers share: masks, and the step of all parameters in one call.

Each is torch's optimizer of its name: the same arguments, param groups, hooks and state_dict, which
loads into torch's and back, and steps that are equal to rounding, with or without masks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.ops.dtypes import DTYPES
from sparsetrain.ops.in_order import gapless, same_order
from sparsetrain.ops.masked_sgd import STATES, MaskedState
from sparsetrain.optim.state import clear_, local
from sparsetrain.support.nearest import unknown
from sparsetrain.support.wrapped import bare, bare_parameters

Group = dict[str, Any]
_dtype = attrgetter("dtype")


class Part(NamedTuple):
    """A parameter that has a gradient, and what its step needs."""

    weight: Tensor
    grad: Tensor
    mask: Tensor | None
    state: tuple[Tensor, ...]
    step: Tensor | None = None
    first: bool = False


class Amp(NamedTuple):
    grad_scale: Tensor | None
    found_inf: Tensor | None


class Lists(NamedTuple):
    """The parts of several parameters, as an op takes them."""

    weights: list[Tensor]
    grads: list[Tensor]
    masks: list[Tensor | None]
    states: list[list[Tensor]]  # of each kind of state one for each weight
    steps: list[Tensor]
    first: bool

    @classmethod
    def of(cls, parts: list[Part]) -> "Lists":
        weights, grads, masks, states, steps, first = zip(*parts, strict=True)
        return cls(
            list(weights),
            list(grads),
            list(masks),
            [list(kind) for kind in zip(*states, strict=True)],
            [step for step in steps if step is not None],
            first[0],
        )


@dataclass(frozen=True)
class _Known:
    """A group's lists, which serve until something but a gradient moves."""

    made_from: list[Any]
    lists: Lists


class Masked(Optimizer):
    """An optimizer that holds masks, and leaves exact zeros where they are false.

    A subclass says what a parameter's state is called (`_state_names`), whether its steps are
    counted, and how to step: where all lies in order on the CPU (`_step_in_order`), and elsewhere
    (`_step_lists`).
    """

    _step_supports_amp_scaling = True  # GradScaler leaves its division and its check to the step
    masked_state: MaskedState
    _masks: dict[Tensor, Tensor]
    _counts_steps = False
    _known: dict[int, _Known]  # of groups that are in order as a whole

    def set_masks(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Hold these masks instead of those before, and clear what they prune, now and in steps.

        The mask tensors are held, not copied: changed in place, they act from the next step, and
        where channels are removed (`sparsetrain.plan`) they shrink along. Weights are cleared with
        their gradients and, unless masked_state is "keep", with their state. Masks are no part of
        the state_dict: save them with the model.

        Args:
            masks: parameter name -> bool mask, true = kept; {} for none. A parameter that another
                optimizer trains is left to that one. The mask of a DTensor is one with its
                placements, or a plain tensor for this rank's part.

        Raises:
            ValueError: a name is unknown, a shape or device differs, or no parameter is this
                optimizer's.
            TypeError: a mask is not bool.
        """
        who, named = type(self).__name__, bare_parameters(model)
        own = {id(p) for group in self.param_groups for p in group["params"]}
        found: dict[Tensor, Tensor] = {}
        for name, mask in masks.items():
            parameter = named.get(bare(model, name))
            if parameter is None:
                raise unknown("parameter to mask", name, named, listed=False)
            _check_mask(f"{who}: the mask of {name}", mask, parameter)
            if id(parameter) in own:
                found[parameter] = mask
        if masks and not found:
            raise ValueError(f"{who}: none of the masked parameters is this optimizer's")
        self._masks, self._known = found, {}
        with torch.no_grad():
            for parameter, mask in found.items():
                clear_(parameter, mask, self if self.masked_state == "zero" else None)

    def mask_of(self, parameter: Tensor) -> Tensor | None:
        """The mask that is held for a parameter."""
        return self._masks.get(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step, as torch's; a parameter without a gradient stays, but masked."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf = getattr(self, "found_inf", None)  # 0, where GradScaler found no gradients
        if not isinstance(found_inf, Tensor) or not found_inf.is_cpu or not found_inf.item():
            for index, group in enumerate(self.param_groups):
                self._step_group(index, group)
        return loss

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.dtype not in DTYPES:
                needed = f"{type(self).__name__}: parameters must be fp32, fp64, bf16 or fp16"
                raise TypeError(f"{needed}, got {p.dtype}")

    def __getstate__(self) -> dict[str, Any]:
        own = {"_masks": self._masks, "masked_state": self.masked_state}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._known = {}
        for group in self.param_groups:
            group["fused"] = True  # what torch's optimizer of this name is to do with our state

    def _accept(self, masked_state: MaskedState, differentiable: bool) -> None:
        """Check the arguments that torch's optimizer does not have, or has and we have not."""
        who = type(self).__name__
        if masked_state not in STATES:
            raise ValueError(f"{who}: masked_state is zero or keep, got {masked_state!r}")
        if differentiable:
            raise ValueError(f"{who}: differentiable=True is not supported; use torch.optim.{who}")
        self.masked_state = masked_state
        self._masks, self._known = {}, {}

    def _state_names(self, group: Group) -> tuple[str, ...]:
        raise NotImplementedError

    def _step_in_order(self, lists: Lists, group: Group, amp: Amp) -> None:
        raise NotImplementedError

    def _step_lists(self, lists: Lists, group: Group, amp: Amp) -> None:
        raise NotImplementedError

    def _step_group(self, index: int, group: Group) -> None:
        live, grads = self._with_gradients(group["params"])
        made_from, known = self._made_from(live, grads, group), self._known.get(index)
        if known is not None and known.made_from == made_from:
            self._step_fit(known.lists._replace(grads=grads), group)
            return
        parts = [self._part(p, g, group) for p, g in zip(live, grads, strict=True)]
        whole = all(part.weight is p for part, p in zip(parts, live, strict=True))
        fit, others = [], {}
        for part in parts:
            if self._fits(part):
                fit.append(part)
            else:
                others.setdefault(part.weight.device, []).append(part)
        for lists in _by_first(fit):
            self._step_fit(lists, group)
            if whole and len(lists.weights) == len(parts) and not lists.first:
                self._known[index] = _Known(made_from, lists)
        for device, some in others.items():
            for lists in _by_first(some):
                self._step_lists(lists, group, self._amp(device))

    def _step_fit(self, lists: Lists, group: Group) -> None:
        self._step_in_order(lists, group, self._amp(torch.device("cpu")))
        torch.autograd.graph.increment_version(lists.weights)

    def _with_gradients(self, parameters: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Those that have one, and these; the others are masked, which is all of their step."""
        live, grads = [], []
        for p in parameters:
            grad = p.grad
            if grad is not None:
                if grad.layout != torch.strided:
                    raise RuntimeError(f"{type(self).__name__}: sparse gradients are not supported")
                live.append(p)
                grads.append(grad)
            elif p in self._masks:
                local(p).masked_fill_(~local(self._masks[p]), 0)
        return live, grads

    def _made_from(self, live: list[Tensor], grads: list[Tensor], group: Group) -> list[Any]:
        """All that lists of these say and need, but for the gradients themselves.

        Asked for in every step, with caches that the step before has emptied: it is to touch
        little.
        """
        names = (*self._state_names(group), *(["step"] if self._counts_steps else ()))
        states = [self.state.get(p, {}) for p in live] if names else []
        held = [s[name] for name in names for s in states if s.get(name) is not None]
        addresses = map(Tensor.data_ptr, (*live, *self._masks.values(), *held))
        both = (*live, *grads)
        return [*addresses, *map(_dtype, both), *map(Tensor.numel, both), *map(Tensor.stride, both)]

    def _part(self, parameter: Tensor, grad: Tensor, group: Group) -> Part:
        names, mask = self._state_names(group), self.mask_of(parameter)
        if getattr(grad, "placements", None) != getattr(parameter, "placements", None):
            raise ValueError(
                f"{type(self).__name__}: {_name(parameter, group)} and its gradient must be placed"
                f" alike, got {_placed(parameter)} and {_placed(grad)}"
            )
        mine = (local(parameter), local(grad), None if mask is None else local(mask))
        if not names:
            return Part(*mine, ())
        state = self.state[parameter]
        if self._counts_steps and not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        missing = [name for name in names if state.get(name) is None]
        state.update((name, torch.zeros_like(parameter)) for name in missing)
        held = tuple(local(state[name]) for name in names)
        return Part(*mine, held, state.get("step"), bool(missing))

    def _amp(self, device: torch.device) -> Amp:
        """What GradScaler left for this step."""
        given = (getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
        tensors = (t if isinstance(t, Tensor) else None for t in given)
        return Amp(*(None if t is None else t.to(device, torch.float32) for t in tensors))

    def _fits(self, part: Part) -> bool:
        """Whether the op on the CPU can take this; state and masks are brought into order."""
        w, g = part.weight, part.grad
        if not w.is_cpu or g.stride() != w.stride() or g.numel() != w.numel() or g.dtype != w.dtype:
            return False
        own = [t for t in (*part.state, part.mask) if t is not None]
        if not gapless(w) or not all(t.is_cpu and t.shape == w.shape for t in own):
            return False
        if not all(t.dtype == w.dtype for t in part.state):
            return False
        strayed = [t for t in own if not same_order(t, w)]
        for t in strayed:  # as after model.to(memory_format=...); from the next step on it fits
            t.data = torch.empty_like(w, dtype=t.dtype).copy_(t)
        return not strayed


def _by_first(parts: list[Part]) -> list[Lists]:
    """One of those whose state holds nothing yet, and one of the others, where there are any."""
    groups = ([p for p in parts if p.first], [p for p in parts if not p.first])
    return [Lists.of(some) for some in groups if some]


def _name(parameter: Tensor, group: Group) -> str:
    at = next(i for i, p in enumerate(group["params"]) if p is parameter)
    return group["param_names"][at] if "param_names" in group else f"parameter {at} of its group"


def _placed(tensor: Tensor) -> str:
    return str(getattr(tensor, "placements", "a plain tensor"))


def _check_mask(name: str, mask: Tensor, parameter: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be bool, got {mask.dtype}")
    if hasattr(mask, "placements") and _placed(mask) != _placed(parameter):
        raise ValueError(
            f"{name} is placed as {_placed(mask)}, the parameter is {_placed(parameter)}"
        )
    mine, weight = local(mask), local(parameter)
    if mine.shape != weight.shape or mine.device != weight.device:
        raise ValueError(
            f"{name} is {tuple(mine.shape)} on {mine.device},"
            f" the parameter is {tuple(weight.shape)} on {weight.device}"
        )
