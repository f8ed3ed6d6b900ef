"""Pruning once, before training: random, magnitude, SNIP, GraSP, ProsPr.

Methods in several rounds (SynFlow, Iter-SNIP, FORCE): sparsetrain/methods/rounds.py.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsetrain.distributed import mean_over_
from sparsetrain.methods.draws import uniform
from sparsetrain.methods.masking import Masking
from sparsetrain.methods.probe import Batch, Probing
from sparsetrain.selection import patterns
from sparsetrain.selection.select import SIGNED, Formula
from sparsetrain.support.chance import normal, random_stream
from sparsetrain.support.wrapped import bare_parameters

ALL = (*Masking.PATTERNS, patterns.NM)


@dataclass(frozen=True)
class Random(Masking):
    """Prune at random at the start: each group is as likely to stay as another.

    The baseline of every comparison; with allocation "erk" or "uniform" also the start of SET and
    RigL.

    Where it prunes a network that was trained, batch norms want their statistics estimated again:
    `sparsetrain.recalibrate(model, batches)`.

    Attributes:
        seed: the draws depend on it and on the layer's position alone.
    """

    seed: int = 0

    PATTERNS = ALL
    NEEDS_OPTIMIZER = False

    def _begin(self) -> None:
        by_entry = isinstance(self.pattern, patterns.NM)
        pattern = patterns.Unstructured() if by_entry else self._patterns
        scores = uniform(self._state.parameters, pattern, self.seed, 0)
        self._change(self._choose(self.sparsity, scores=scores))


@dataclass(frozen=True)
class Magnitude(Masking):
    """Keep the largest |w|, once: at the start, or after `at` steps of training.

    At the start of training it is a baseline, for a trained network it is one-shot magnitude
    pruning; what follows is fine-tuning.

    Where it prunes a network that was trained, batch norms want their statistics estimated again:
    `sparsetrain.recalibrate(model, batches)`.

    Attributes:
        at: steps before the pruning.
    """

    at: int = 0

    PATTERNS = ALL
    NEEDS_OPTIMIZER = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at < 0:
            raise self._wrong(f"at is a number of steps, 0 or more, got {self.at}")

    def next_change(self, step: int) -> float:
        return math.inf if self._state.memory["pruned"] else max(self.at, step + 1)

    def _after(self, step: int) -> None:
        super()._after(step)
        if step == self.at and not self._state.memory["pruned"]:
            self._prune()

    def _missed(self) -> str | None:
        return None if self._state.memory["pruned"] else self._short_of("the pruning", self.at)

    def _begin(self) -> None:
        self._state.memory["pruned"] = False
        if self.at == 0:
            self._prune()

    def _prune(self) -> None:
        self._state.memory["pruned"] = True
        self._change(self._choose(self.sparsity))


@dataclass(frozen=True)
class SNIP(Probing):
    r"""Keep the largest connection sensitivity, before training.

        score = | dL/dc |  at c = 1, where c multiplies w,  = | w * dL/dw |

    Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019,
    arXiv:1810.02340; code namhoonlee/snip-public. The sum that the paper divides by does not change
    the order. One batch there (100 on MNIST, 128 on CIFAR); more are summed (our reading). Its code
    scores with is_train=False, so batch norms use their running statistics by default; ports to
    PyTorch use `training=True`.

    Where it prunes a network that was trained, batch norms want their statistics estimated again:
    `sparsetrain.recalibrate(model, batches)`.
    """

    training: bool = field(default=False, kw_only=True)

    PATTERNS = ALL

    def _begin(self) -> None:
        grads = self._gradients_at(self._state.parameters, self.batches)
        self._change(self._choose(self.sparsity, Formula("snip"), grads=grads))


@dataclass(frozen=True)
class GraSP(Probing):
    r"""Remove the weights whose removal reduces the flow of gradients least, before training.

        score = -w * (H g),    g = dL/dw,  H = d^2 L / dw^2;  the largest scores are removed

    Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020,
    arXiv:2002.07376; code alecwangcq/GraSP. As there, g is the sum over all batches (the code's
    are the two halves of one draw), H g the sum over batches of the gradient of <g, dL_b/dw>
    with g held fixed, over the prunable weights alone, with the outputs divided by `temperature`.
    The norm that the code divides by is positive and does not change the order. A group of a
    pattern is worth the sum of its signed scores (our reading).

    Where it prunes a network that was trained, batch norms want their statistics estimated again:
    `sparsetrain.recalibrate(model, batches)`.

    Attributes:
        temperature: what the model's output is divided by; with 1 it may be other than a tensor.
        reinit_linear: score linear layers at fresh Xavier-normal weights, as the code does; the
            model's own stay.
        seed: of these fresh weights.
    """

    temperature: float = 200.0
    reinit_linear: bool = True
    seed: int = 0

    PATTERNS = ALL

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise self._wrong(f"temperature must be positive, got {self.temperature}")

    def _logits(self, output: Any) -> Any:
        return output if self.temperature == 1 else output / self.temperature

    def _begin(self) -> None:
        weights = self._scored_at()
        batches = list(self.batches)
        gradients = self._gradients_at(weights, batches)
        product = self._hessian_product(weights, gradients, batches)
        scores = {n: w.float() * product[n].float() for n, w in weights.items()}
        self._change(self._choose(self.sparsity, SIGNED, scores=scores))

    def _scored_at(self) -> dict[str, Tensor]:
        weights = {n: p.detach() for n, p in self._state.parameters.items()}
        if not self.reinit_linear:
            return weights
        layers = [m for m in self._state.model.modules() if isinstance(m, nn.Linear)]
        linear = {id(m._parameters.get("weight")) for m in layers}
        for i, (name, parameter) in enumerate(self._state.parameters.items()):
            if id(parameter) in linear:
                xavier = (2 / sum(parameter.shape)) ** 0.5
                fresh = xavier * normal(parameter.shape, random_stream(self.seed, 0, i))
                weights[name] = fresh.to(parameter)
        return weights

    def _hessian_product(
        self, weights: dict[str, Tensor], gradients: dict[str, Tensor], batches: list[Batch]
    ) -> dict[str, Tensor]:
        """H g, summed over the batches."""
        leaves = {n: w.detach().requires_grad_() for n, w in weights.items()}
        by = list(leaves.values())
        total = {n: torch.zeros_like(w) for n, w in weights.items()}
        with self._looking():
            for batch in batches:
                loss = self._loss(batch, leaves)
                grads = torch.autograd.grad(loss, by, create_graph=True, materialize_grads=True)
                flow = torch.stack(
                    [(g * h).sum() for g, h in zip(gradients.values(), grads, strict=True)]
                ).sum()
                products = torch.autograd.grad(flow, by, materialize_grads=True)
                for name, product in zip(total, products, strict=True):
                    total[name] += product
        mean_over_(self._together, list(total.values()))
        return total


@dataclass(frozen=True)
class ProsPr(Probing):
    r"""Keep the weights whose masks matter most to the loss after some steps of training.

        w_0 = w * m at m = 1,  w_{k+1} = w_k - inner_lr * dL(w_k)/dw_k,  score = | dL(w_K)/dm |

    Alizadeh et al., "Prospect Pruning: Finding Trainable Weights at Initialization Using
    Meta-Gradients", ICLR 2022, arXiv:2202.08132; code mil-ad/prospr. The K steps are those of SGD
    on all parameters that are trained, differentiated through. Step k takes batch k and the last
    loss batch K, from the front again where there are fewer: give K + 1 batches for new data in
    each, one for the same.

    Where it prunes a network that was trained, batch norms want their statistics estimated again:
    `sparsetrain.recalibrate(model, batches)`.

    Attributes:
        steps: K.
        inner_lr: 0.1 on the code's command line, 0.5 in its example.
        inner_momentum: with it, the first step's gradient enters as a constant, as in the code.
        first_order: take all inner gradients as constants: score = | w * dL(w_K)/dw_K |.
    """

    steps: int = 3
    inner_lr: float = 0.1
    inner_momentum: float = 0.0
    first_order: bool = False

    PATTERNS = ALL

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0 or not self.inner_lr > 0 or not 0 <= self.inner_momentum < 1:
            raise self._wrong(
                "need steps >= 0, inner_lr > 0 and inner_momentum in [0, 1), got"
                f" {self.steps}, {self.inner_lr}, {self.inner_momentum}"
            )

    def _begin(self) -> None:
        s, batches = self._state, list(self.batches)
        gates = {n: torch.ones_like(p, requires_grad=True) for n, p in s.parameters.items()}
        trained = {
            n: p.detach().requires_grad_()
            for n, p in bare_parameters(s.model).items()
            if p.requires_grad
        }
        with self._looking():
            masked = {n: s.parameters[n].detach() * gate for n, gate in gates.items()}
            tensors = self._trained({**trained, **masked}, list(trained), batches)
            loss = self._loss(batches[self.steps % len(batches)], tensors)
            by = list(gates.values())
            grads = torch.autograd.grad(loss, by, materialize_grads=True)
        mean_over_(self._together, grads)
        scores = {n: g.abs() for n, g in zip(gates, grads, strict=True)}
        self._change(self._choose(self.sparsity, scores=scores))

    def _trained(
        self, tensors: dict[str, Tensor], moving: list[str], batches: list[Batch]
    ) -> dict[str, Tensor]:
        """These weights after the K steps, as functions of the gates."""
        momentum: dict[str, Tensor] = {}
        for step in range(self.steps):
            loss = self._loss(batches[step % len(batches)], tensors)
            by = [tensors[n] for n in moving]
            grads = torch.autograd.grad(
                loss, by, create_graph=not self.first_order, materialize_grads=True
            )
            for name, grad in zip(moving, map(self._mean, grads), strict=True):
                if self.inner_momentum:
                    before = momentum.get(name)
                    grad = grad.detach() if before is None else self.inner_momentum * before + grad
                    momentum[name] = grad
                tensors[name] = tensors[name] - self.inner_lr * grad
        return tensors

    def _mean(self, grad: Tensor) -> Tensor:
        """Over ranks, and differentiable as the gradient is."""
        if self._together is None:
            return grad
        from torch.distributed.nn.functional import all_reduce  # loads much that one process spares

        return all_reduce(grad.contiguous(), group=self._together) / dist.get_world_size(
            self._together
        )
