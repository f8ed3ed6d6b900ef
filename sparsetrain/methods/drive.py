"""DRIVE: a short dense training, then iterative pruning by a three-term score.

Saikumar & Varghese, "DRIVE: Dual Gradient-Based Rapid Iterative Pruning", 2024, arXiv:2404.03687.
From the abstract and its summaries: dense training for the initial epochs, then iterative pruning
by one score made of the L1 norm |w|, the connection sensitivity |dL/dc| = |w * dL/dw| and the
convergence sensitivity |dL/dw|. How the three are combined, the number of dense epochs, rounds and
batches, and all defaults below are our reading.
"""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.masks import Masks, apply_, prunable, sparsity
from sparsetrain.methods.method import Method
from sparsetrain.ops import topk_mask
from sparsetrain.optim import Masked, state_like

CHOICES = {
    "normalise": ("none", "sum", "max", "std"),
    "scope": ("global", "layer"),
    "after": ("continue", "rewind_init", "rewind_dense"),
}


@dataclass
class DRIVE(Method):
    r"""Prune to `sparsity` in `rounds` rounds after `dense_steps` steps of dense training.

        score = alpha * |w| / A  +  beta * |w * g| / B  +  gamma * |g| / C

    with A, B, C the sums of the terms over the network (`normalise="sum"`). After round r of T the
    share (1 - sparsity)^(r / T) of the weights is kept, exactly; what is pruned stays pruned. The
    gradient g is the training loop's own, summed over the `batches` steps up to the round, so that
    pruning costs no extra forward or backward pass. (Our reading; see the file's head.)

    Attributes:
        sparsity: share of the prunable weights that is removed in the end, in [0, 1).
        dense_steps: steps before the first round.
        rounds: pruning rounds.
        interval: steps from one round to the next.
        batches: steps whose gradients are summed for a score, at most `interval`.
        alpha, beta, gamma: weights of the three terms.
        normalise: what each term is divided by: its "sum", "max", "std", or nothing ("none").
        scope: rank and normalise over the whole network ("global") or in each layer ("layer").
        after: after the last round "continue" with the weights as they are, or set what was kept
            back to its value at the start ("rewind_init") or before round 1 ("rewind_dense").
        exclude: names of modules or parameters that stay dense.
    """

    sparsity: float
    dense_steps: int
    rounds: int = 10
    interval: int = 10
    batches: int = 1
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    normalise: Literal["none", "sum", "max", "std"] = "sum"
    scope: Literal["global", "layer"] = "global"
    after: Literal["continue", "rewind_init", "rewind_dense"] = "continue"
    exclude: Collection[str] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"DRIVE: sparsity must be in [0, 1), got {self.sparsity}")
        if self.dense_steps < 0 or min(self.rounds, self.interval, self.batches) < 1:
            raise ValueError(
                "DRIVE: need dense_steps >= 0 and rounds, interval, batches >= 1, got"
                f" {self.dense_steps}, {self.rounds}, {self.interval}, {self.batches}"
            )
        if self.batches > self.interval:
            raise ValueError(f"DRIVE: batches={self.batches} exceeds interval={self.interval}")
        for option, allowed in CHOICES.items():
            if getattr(self, option) not in allowed:
                got = repr(getattr(self, option))
                raise ValueError(f"DRIVE: {option} is one of {', '.join(allowed)}, got {got}")

    @property
    def masks(self) -> Masks:
        return self._masks

    @property
    def last_round(self) -> int:
        """The step, counted from 1, whose gradient decides the last round."""
        return self.dense_steps + 1 + (self.rounds - 1) * self.interval

    def start(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._parameters = prunable(model, self.exclude)
        self._masks = {n: torch.ones_like(p, dtype=torch.bool) for n, p in self._parameters.items()}
        self._gradients: dict[str, Tensor] = {}  # summed for the coming round
        self._snapshot = _snapshot(model) if self.after == "rewind_init" else {}
        self._step = 0

    def after_backward(self) -> None:
        self._step += 1
        until = self.dense_steps + 1 - self._step
        if until < 0:
            until %= self.interval
        if self._step > self.last_round or until >= self.batches:
            return
        self._collect()
        if until == 0:
            self._prune((self._step - self.dense_steps - 1) // self.interval + 1)

    def after_step(self) -> None:
        if self._step > self.dense_steps and not isinstance(self._optimizer, Masked):
            apply_(self._masks, self._model, self._optimizer)

    def finish(self) -> None:
        if 0 < self._step < self.last_round:
            warnings.warn(
                f"DRIVE: training ended at step {self._step}, before the last round at step"
                f" {self.last_round}; {100 * sparsity(self._masks):.1f}% of the weights are pruned",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "masks": dict(self._masks),
            "gradients": dict(self._gradients),
            "snapshot": dict(self._snapshot),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]
        self._masks = dict(state["masks"])
        self._gradients = dict(state["gradients"])
        self._snapshot = dict(state["snapshot"])
        if self._step > self.dense_steps:
            self._mask()

    @torch.no_grad()
    def _collect(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                raise ValueError(f"DRIVE: {name} has no gradient; exclude it or unfreeze it")
            grad = parameter.grad * self._masks[name]
            before = self._gradients.get(name)
            self._gradients[name] = grad if before is None else before.add_(grad)

    @torch.no_grad()
    def _prune(self, round_: int) -> None:
        if round_ == 1 and self.after == "rewind_dense":
            self._snapshot = _snapshot(self._model)
        density = (1 - self.sparsity) ** (round_ / self.rounds)
        names = list(self._parameters)
        for scope in [names] if self.scope == "global" else [[name] for name in names]:
            self._masks.update(self._select(scope, density))
        empty = [name for name, mask in self._masks.items() if not mask.any()]
        if empty:
            raise ValueError(
                f"DRIVE: round {round_} of {self.rounds} would keep no weight of {empty[0]};"
                ' lower the sparsity, exclude the layer, or rank with scope="layer"'
            )
        self._gradients = {}
        if round_ == self.rounds and self.after != "continue":
            self._rewind()
        self._mask()

    def _mask(self) -> None:
        """Clear what is pruned; one of our optimizers keeps it so, else `after_step` does."""
        if isinstance(self._optimizer, Masked):
            self._optimizer.set_masks(self._model, self._masks)
        else:
            apply_(self._masks, self._model, self._optimizer)

    def _select(self, names: list[str], density: float) -> Masks:
        weights = [self._parameters[n].detach() for n in names]
        grads = [self._gradients[n] for n in names]
        factors = (self.alpha, self.beta, self.gamma)
        alpha, beta, gamma = (
            factor / size if size > 0 else 0.0
            for factor, size in zip(factors, self._sizes(weights, grads), strict=True)
        )
        kept = topk_mask(
            weights,
            grads,
            k=round(density * sum(w.numel() for w in weights)),
            score="blend",
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            within=[self._masks[n] for n in names],
            names=names,
        )
        # In the weights' memory order, so that applying them walks memory in one direction.
        return {
            name: torch.empty_like(w, dtype=torch.bool).copy_(mask)
            for name, w, mask in zip(names, weights, kept, strict=True)
        }

    def _sizes(self, weights: list[Tensor], grads: list[Tensor]) -> list[float]:
        """What |w|, |w * g| and |g| are divided by, over all of the given layers."""
        if self.normalise == "none":
            return [1.0, 1.0, 1.0]
        terms = (
            [w.abs() for w in weights],
            [(w * g).abs() for w, g in zip(weights, grads, strict=True)],
            [g.abs() for g in grads],
        )
        return [_size(term, self.normalise) for term in terms]

    def _rewind(self) -> None:
        """Weights and buffers back to the snapshot, the optimizer's momentum and moments to 0."""
        own = self._model.state_dict(keep_vars=True)
        for name, before in self._snapshot.items():
            own[name].copy_(before)
        for parameter in self._model.parameters():
            for state in state_like(self._optimizer, parameter):
                state.zero_()
        self._snapshot = {}


def _size(parts: list[Tensor], how: str) -> float:
    if how == "max":
        return max(float(p.max()) for p in parts)
    count = sum(p.numel() for p in parts)
    total = sum(float(p.sum(dtype=torch.float64)) for p in parts)
    if how == "sum":
        return total
    squares = sum(float(p.double().square().sum()) for p in parts)
    return max(squares / count - (total / count) ** 2, 0.0) ** 0.5


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}
