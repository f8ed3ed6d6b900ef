r"""Methods whose forward pass reads other weights than the optimizer steps.

The optimizer steps dense weights w; forward and backward see weights v = f(w), and the gradient of
w is that of v, straight through the mask. Between the hooks the parameters hold what the pass at
hand needs:

    after_backward    w goes back into the parameter, its gradient is completed
    optimizer.step()  steps w
    after_step        w is kept aside, v goes into the parameter

That equals a parametrised forward pass and needs no parametrization: models, optimizers and
compilation are as without it. A saved model holds v; the method's state holds w.

    SR-STE  Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch",
            ICLR 2021, arXiv:2102.04010; aojunzz/NM-sparsity, devkit/sparse_ops/sparse_ops.py
    STR     Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable Sparsity",
            ICML 2020, arXiv:2002.03231; RAIVNLab/STR, utils/conv_type.py
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsetrain.methods.loop import Loop
from sparsetrain.methods.masking import Masking
from sparsetrain.selection.masks import apply_, mark_of
from sparsetrain.selection.patterns import NM, Pattern
from sparsetrain.selection.select import best


@dataclass(frozen=True)
class StraightThrough(Masking):
    """A subclass gives v and its mask by `_forward`, and the gradient of w by `_backward`."""

    NEEDS_GRADIENTS = True

    def _forward(self, name: str, w: Tensor) -> tuple[Tensor, Tensor]:
        """v of a dense weight, and where it is kept."""
        raise NotImplementedError

    def _backward(self, name: str, w: Tensor, grad: Tensor) -> None:
        """Make the gradient of v that of w, in place."""
        raise NotImplementedError

    def _begin(self) -> None:
        self._keep_aside()

    def _act(self, step: int) -> None:
        memory = self._state.memory
        self._check_unchanged()
        grads = self._gradients()
        for name, parameter in self._state.parameters.items():
            self._backward(name, memory["dense"][name], grads[name])
            parameter.copy_(memory["dense"][name])
        memory["stepping"] = 1

    @torch.no_grad()
    def _after(self, step: int) -> None:
        if self._state.memory["stepping"]:
            self._keep_aside()

    def _mask_gradients(self) -> None:
        """All dense weights are trained."""

    def finish(self) -> None:
        """Average weights move with every mask, so they are pruned once, by the last one."""
        super().finish()
        if self._state.ema is not None:
            apply_(self.masks, self._state.ema, None)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        Loop.load_state_dict(self, state)
        s = self._state
        # Files hold tensors row by row; sums in another order would round otherwise.
        dense = s.memory["dense"]
        s.memory["dense"] = {
            n: torch.empty_like(p).copy_(dense[n]) for n, p in s.parameters.items()
        }
        self._show()

    @torch.no_grad()
    def _keep_aside(self) -> None:
        s = self._state
        s.memory["dense"] = {n: p.detach().clone() for n, p in s.parameters.items()}
        self._show()

    def _show(self) -> None:
        """Put v into the parameters."""
        s = self._state
        s.memory["stepping"], s.masks = 0, {}
        for name, parameter in s.parameters.items():
            v, s.masks[name] = self._forward(name, s.memory["dense"][name])
            parameter.copy_(v)
        s.marks = {n: mark_of(p) for n, p in s.parameters.items()}

    def _check_unchanged(self) -> None:
        """What a user wrote into a weight would be lost."""
        s = self._state
        for name, parameter in s.parameters.items():
            if s.marks[name] == mark_of(parameter):
                continue
            v, _ = self._forward(name, s.memory["dense"][name])
            if not torch.equal(parameter, v):
                raise RuntimeError(
                    f"{type(self).__name__}: {name} was changed between steps, outside the method"
                )


@dataclass(frozen=True)
class SRSTE(StraightThrough):
    r"""Keep n of every m inputs by magnitude, chosen anew at each step from dense weights.

        v = m * w,  dL/dw = dL/dv + decay * (1 - m) * w

    with m the n largest |w| of every m consecutive inputs, for each output and kernel position.

    Attributes:
        sparsity: 1 - n/m.
        decay: lambda_w of the paper, 2e-4 there.

    The other options are those of `Masking`; allocation and floor have no meaning here.
    """

    sparsity: float = 0.5
    decay: float = 2e-4
    pattern: Pattern = field(default=NM(2, 4), kw_only=True)

    PATTERNS: ClassVar[tuple[type, ...]] = (NM,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay < 0:
            raise self._wrong(f"decay must not be negative, got {self.decay}")

    def _forward(self, name: str, w: Tensor) -> tuple[Tensor, Tensor]:
        mask = best({name: w}, k=0, pattern=self._patterns[name])[name]
        return w.masked_fill(~mask, 0), mask

    def _backward(self, name: str, w: Tensor, grad: Tensor) -> None:
        grad.add_(w.masked_fill(self.masks[name], 0), alpha=self.decay)


@dataclass(frozen=True)
class STR(StraightThrough):
    r"""One learned threshold a layer; what lies below it is 0, the rest is shrunk by it.

        v = sign(w) * relu(|w| - sigmoid(s)),  s of each layer trained as a weight is

    The method steps s itself, with the learning rate, momentum and Nesterov's rule of the weight's
    param group (of SGD; 0 elsewhere), by the gradients as `after_backward` finds them. In the paper
    the sparsity is what comes of `initial` and `decay`. Here, our reading, thresholds are trained
    until the network is as sparse as `sparsity`, or until `end`; from then on it trains v under the
    mask of the largest |w| - sigmoid(s), which keeps exactly what `sparsity` says.

    Attributes:
        total_steps: steps of the whole training.
        initial: s at the start, -3200 in the paper's runs at 90%: sigmoid(s) is 0 for long. A short
            training needs one nearer to 0.
        decay: weight decay of s; None for that of the weight's group, as in the code.
        end: share of total_steps after which the mask is fixed at the latest.

    The other options are those of `Masking`.
    """

    total_steps: int
    initial: float = -3200.0
    decay: float | None = None
    end: float = 0.8

    MADE = False  # a threshold may empty what weight_norm divides by

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.end <= 1 or self.end * self.total_steps < 1:
            raise self._wrong(
                "need end in (0, 1] and a step before it, got"
                f" end={self.end}, total_steps={self.total_steps}"
            )

    def _begin(self) -> None:
        memory, parameters = self._state.memory, self._state.parameters
        for name in parameters:
            if self._group(name) is None:
                raise self._wrong(f"{name} is not one of the optimizer's, exclude it")
        memory["s"] = {n: torch.full_like(p[:1].sum(), self.initial) for n, p in parameters.items()}
        memory["momentum"] = {n: torch.zeros_like(s) for n, s in memory["s"].items()}
        super()._begin()

    def next_change(self, step: int) -> float:
        return step + 1 if self._state.memory["dense"] else math.inf

    def _act(self, step: int) -> None:
        if not self._state.memory["dense"]:
            return
        if self._reached() or step >= int(self.end * self.total_steps):
            self._check_unchanged()
            self._settle()
        else:
            super()._act(step)

    def _after(self, step: int) -> None:
        if self._state.memory["dense"]:
            super()._after(step)
        else:
            Masking._after(self, step)

    def _mask_gradients(self) -> None:
        if not self._state.memory["dense"]:
            Masking._mask_gradients(self)

    def _missed(self) -> str | None:
        last = int(self.end * self.total_steps)
        return self._short_of("the masks were fixed", last) if self._state.memory["dense"] else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["memory"]["dense"]:
            super().load_state_dict(state)
        else:
            Masking.load_state_dict(self, state)

    def _reached(self) -> bool:
        amounts = self._state.amounts
        share = amounts.kept_in_all(self.sparsity) / sum(amounts.groups.values())
        left = sum(int(mask.sum()) for mask in self.masks.values())
        return left <= share * sum(mask.numel() for mask in self.masks.values())

    def _settle(self) -> None:
        """Train v from now on, under a mask that stays."""
        memory = self._state.memory
        above = {n: w.abs() - memory["s"][n].sigmoid() for n, w in memory["dense"].items()}
        least = min(float(a.min()) for a in above.values())
        memory["dense"] = {}
        self._change(self._choose(self.sparsity, scores={n: a - least for n, a in above.items()}))

    def _forward(self, name: str, w: Tensor) -> tuple[Tensor, Tensor]:
        threshold = self._state.memory["s"][name].sigmoid()
        return w.sign() * (w.abs() - threshold).relu(), w.abs() > threshold

    def _backward(self, name: str, w: Tensor, grad: Tensor) -> None:
        grad.masked_fill_(~self.masks[name], 0)
        slope = self._state.memory["s"][name].sigmoid()
        self._step_threshold(name, -(grad * w.sign()).sum() * slope * (1 - slope))

    def _step_threshold(self, name: str, grad: Tensor) -> None:
        if not grad.isfinite():
            raise self._not_finite(name)
        memory, group = self._state.memory, self._group(name) or {}
        momentum = group.get("momentum", 0)
        decay = group.get("weight_decay", 0) if self.decay is None else self.decay
        grad = grad + float(decay) * memory["s"][name]
        rolling = momentum * memory["momentum"][name] + grad
        change = grad + momentum * rolling if group.get("nesterov") else rolling
        memory["momentum"] = {**memory["momentum"], name: rolling}
        memory["s"] = {**memory["s"], name: memory["s"][name] - float(group["lr"]) * change}

    def _group(self, name: str) -> dict[str, Any] | None:
        """The param group that a weight is in."""
        groups = self._state.optimizer.param_groups
        weight = self._state.parameters[name]
        return next((g for g in groups if any(p is weight for p in g["params"])), None)
