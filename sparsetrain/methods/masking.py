"""What methods that mask weights share: choosing exactly k, and keeping the rest at zero.

A subclass says in `_act` what happens between a step's backward pass and its update, mostly
`self._change(self._choose(...))`; all else is here. Steps are counted from 1 there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from sparsetrain.methods.amounts import Amounts
from sparsetrain.methods.held import State
from sparsetrain.methods.loop import Loop
from sparsetrain.methods.method import plain
from sparsetrain.selection import patterns
from sparsetrain.selection.allocate import ALLOCATIONS, Allocation
from sparsetrain.selection.groups import live_groups
from sparsetrain.selection.masks import COUNTS, Masks, check_some, counted, sparsity
from sparsetrain.selection.patterns import NM, Pattern
from sparsetrain.selection.reach import Exclude, Reach, reach
from sparsetrain.selection.schedules import Steps
from sparsetrain.selection.select import MAGNITUDE, UNSTRUCTURED, Formula, best
from sparsetrain.selection.weight import Weight
from sparsetrain.support.wrapped import bare

GIVE_SCALER = (
    "; a GradScaler skips such a step: give it to start(scaler=...), so that it is skipped here,"
    " and call scaler.unscale_(optimizer) before after_backward"
)


@dataclass(frozen=True)
class Masking(Loop):
    """Options of every method that masks weights.

    Attributes:
        sparsity: share that is removed in the end, in [0, 1), of what `count` says.
        pattern: what is removed together; see `sparsetrain.selection.patterns`.
        allocation: "global", all layers' weights compete, or a share for each layer: "uniform",
            "uniform+", "erk" or "er"; see selection/allocate.py.
        exclude: what stays dense: names of modules or parameters, patterns of names such as
            "blocks.*.attn", types of modules, functions (name, module) -> bool.
        include: what is masked besides, said alike: embeddings, weights tied to one and heads of
            language models, which stay dense by default, or parameters that no known layer holds.
            See selection/reach.py; `start` warns where a considerable share stays dense.
        floor: share that each layer keeps at least, or {parameter name: share}.
        count: what sparsity is a share of: the "prunable" weights, all "weights" of convolutions
            and linear layers, these "weights and biases", or all "parameters".
    """

    sparsity: float
    pattern: Pattern = field(default=UNSTRUCTURED, kw_only=True)
    allocation: Allocation = field(default="global", kw_only=True)
    exclude: Exclude = field(default=(), kw_only=True)
    include: Exclude = field(default=(), kw_only=True)
    floor: float | Mapping[str, float] = field(default=0.0, kw_only=True)
    count: Literal["prunable", "weights", "weights and biases", "parameters"] = field(
        default="prunable", kw_only=True
    )

    PATTERNS: ClassVar[tuple[type, ...]] = (
        patterns.Unstructured,
        patterns.Vector,
        patterns.Block,
        patterns.Channel,
    )
    NEEDS_GRADIENTS: ClassVar[bool] = False
    MADE: ClassVar[bool] = True  # also weights that are made from other parameters

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise self._wrong(f"sparsity must be in [0, 1), got {self.sparsity}")
        self._one_of("allocation", ALLOCATIONS)
        self._one_of("count", COUNTS)
        shares = self.floor.values() if isinstance(self.floor, Mapping) else [self.floor]
        if not all(0 <= share <= 1 for share in shares):
            raise self._wrong(f"floor is a share in [0, 1], got {self.floor}")
        if not isinstance(self.pattern, self.PATTERNS):
            allowed = ", ".join(p.__name__ for p in self.PATTERNS)
            why = f"pattern {self.pattern} has no meaning here; it takes {allowed}"
            raise self._wrong(why)
        if isinstance(self.pattern, NM) and self.sparsity != 1 - self.pattern.n / self.pattern.m:
            fixed = 1 - self.pattern.n / self.pattern.m
            raise self._wrong(f"{self.pattern} is sparsity {fixed:g}, got {self.sparsity:g}")

    @property
    def masks(self) -> Masks:
        return self._state.masks

    def next_change(self, step: int) -> float:
        own = (type(self)._act, type(self)._after)
        return math.inf if own == (Masking._act, Masking._after) else step + 1

    def start(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        ema: nn.Module | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self._reach(plain(model)).warn(type(self).__name__)
        super().start(model, optimizer, ema=ema, scaler=scaler)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"masks": dict(self._state.masks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._state.masks = dict(state["masks"])
        self._apply()

    def _between(self, step: int) -> None:
        self._check_whole(step)
        self._check_untouched(self._state.marks)
        self._act(step)
        self._mask_gradients()

    def _after(self, step: int) -> None:
        self._state.keep_()

    def _act(self, step: int) -> None:
        """Between backward and update, step counted from 1."""

    def _open(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        ema: nn.Module | None,
        scaler: GradScaler | None,
    ) -> None:
        outer, model = model, plain(model)
        found = self._reach(model)
        parameters = {n: w.parameter for n, w in found.weights.items()}
        if self.NEEDS_GRADIENTS:
            for name, parameter in parameters.items():
                if not parameter.requires_grad:
                    raise self._wrong(f"{name} has no gradient; exclude it or unfreeze it")
        masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in parameters.items()}
        ema = None if ema is None else plain(ema)
        floor = self.floor
        if isinstance(floor, Mapping):
            floor = {bare(outer, name): share for name, share in floor.items()}
        amounts = Amounts(
            type(self).__name__,
            {n: w.shape for n, w in found.weights.items()},
            counted(model, parameters, self.count),
            self.pattern,
            self.allocation,
            floor,
        )
        amounts.check(self.sparsity)
        own: dict[str, Any] = {"parameters": parameters, "masks": masks, "amounts": amounts}
        own["reach"] = found
        self.__dict__["state"] = State(model, optimizer, ema, scaler, outer, **own)

    def _reach(self, model: nn.Module) -> Reach:
        found = reach(model, self.exclude, self._asked(model), self._unfit)
        check_some(model, found)
        return found

    def _asked(self, model: nn.Module) -> Exclude:
        """What is masked besides, in the terms of `include`."""
        return self.include

    def _unfit(self, weight: Weight) -> str:
        """Why this method leaves a weight dense; "" if it masks it."""
        if not weight.direct and not self.MADE:
            return f"made by what hangs on {type(weight.layer).__name__}"
        whole = not isinstance(self.pattern, patterns.Unstructured | NM)
        return "weight_norm divides by its norms" if whole and weight.normed is not None else ""

    @property
    def _patterns(self) -> dict[str, Pattern]:
        return self._state.reach.patterns(self.pattern)

    def _values(self) -> dict[str, Tensor]:
        return self._state.reach.values()

    def _short_of(self, what: str, due: int) -> str | None:
        """For `_missed`: what was to come at step `due` and has not."""
        if self._state.step >= due:
            return None
        return (
            f"before {what} at step {due}; {100 * sparsity(self.masks):.1f}% of the weights are"
            f" pruned, {100 * self.sparsity:g}% were asked for"
        )

    def _every(self, interval: int, end: float, total_steps: int, after: int = 0) -> Steps:
        """Updates at each interval from step `after` on, up to the share `end` of the training."""
        if interval < 1:
            raise self._wrong(f"interval must be 1 step or more, got {interval}")
        last = int(end * total_steps)
        if last < after + interval:
            raise self._wrong(
                f"the first update is at step {after + interval}, after the schedule's end at"
                f" step {last}: {end:g} of total_steps={total_steps}"
            )
        return Steps(after + interval, last - (last - after) % interval, interval)

    def _choose(
        self,
        sparsity: float,
        formula: Formula = MAGNITUDE,
        *,
        scores: Mapping[str, Tensor] | None = None,
        grads: Mapping[str, Tensor] | None = None,
        within: Masks | None = None,
    ) -> Masks:
        """Masks at this sparsity, by a formula of weights and gradients, or by ready scores."""
        s = self._state
        if scores is None and formula.score == "magnitude":
            scores = self._values()
        chosen = best(
            {n: p.detach() for n, p in s.parameters.items()} if scores is None else scores,
            grads,
            k=s.amounts.kept(sparsity, None if within is None else self._live(within)),
            formula=formula,
            pattern=self._patterns,
            within=within,
            floor=s.amounts.floors,
        )
        return s.reach.alive(chosen, within)

    def _live(self, masks: Masks) -> dict[str, int]:
        """Groups that are left in each weight."""
        by = self._patterns
        return {n: int(live_groups(m, by[n]).sum()) for n, m in masks.items()}

    def _gradients(self) -> dict[str, Tensor]:
        """The step's gradients by name."""
        grads = {}
        for name, parameter in self._state.parameters.items():
            if parameter.grad is None:
                raise self._wrong(f"{name} has no gradient; exclude it or unfreeze it")
            grads[name] = parameter.grad
        return grads

    def _finite_gradients(self) -> dict[str, Tensor]:
        """The same, where weights are chosen by them; ValueError if some are infinite or NaN."""
        grads = self._gradients()
        for name, grad in grads.items():
            if not grad.isfinite().all():
                raise self._not_finite(name)
        return grads

    def _not_finite(self, name: str) -> ValueError:
        hint = "" if self._state.scaler else GIVE_SCALER
        step = self._state.step
        return self._wrong(f"the gradient of {name} is not finite in step {step}{hint}")

    def _change(self, masks: Masks, may_empty: bool = False) -> None:
        """Hold these masks from now on; weights that are new start from 0."""
        s = self._state
        self._check_untouched({})
        masks = s.reach.alive(masks)
        empty = [name for name, mask in masks.items() if not mask.any()]
        if empty and not may_empty:
            raise self._wrong(
                f"step {s.step} would keep no weight of {empty[0]}; lower the sparsity, exclude"
                ' the layer, set floor, or use allocation="uniform" or "erk"'
            )
        s.hold_(masks)

    def _apply(self) -> None:
        self._state.apply_()

    def _mask_gradients(self) -> None:
        """What is pruned has no gradient, so that a norm to clip by is that of the live ones."""
        self._state.mask_gradients_()

    def _check_whole(self, step: int) -> None:
        """A step that looks at weights finds them all."""
        packed = self._state.masks.keys() - self._state.whole.keys()
        if packed and self.next_change(step - 1) <= step:
            raise RuntimeError(
                f"{type(self).__name__}: step {step} needs whole weights, {min(packed)} is packed;"
                " call sparsetrain.densify(model, optimizer) before it: next_change says when"
            )

    def _check_untouched(self, marks: Mapping[str, tuple[int, int]]) -> None:
        """Pruned weights are zero still, where a weight is not known to be unchanged."""
        for name, count in self._state.revived(marks):
            why = f"{name} was changed between steps, outside the method:"
            raise RuntimeError(f"{type(self).__name__}: {why} {count} pruned weights are not 0")

    def _check_start(self, initial: float) -> None:
        if not 0 <= initial <= self.sparsity:
            raise self._wrong(
                f"initial_sparsity must be in [0, sparsity={self.sparsity}], got {initial}"
            )
