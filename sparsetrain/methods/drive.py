"""DRIVE: a short dense training, then iterative pruning by a three-term score.

Saikumar & Varghese, "DRIVE: Dual Gradient-Based Rapid Iterative Pruning", 2024, arXiv:2404.03687.
From the abstract and its summaries: dense training for the initial epochs, then iterative pruning
by one score made of the L1 norm |w|, the connection sensitivity |dL/dc| = |w * dL/dw| and the
convergence sensitivity |dL/dw|. How the three are combined, the number of dense epochs, rounds and
batches, and all defaults below are our reading.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsetrain.methods.masking import Masking
from sparsetrain.methods.method import snapshot
from sparsetrain.optim import state_like
from sparsetrain.selection.schedules import Steps, exponential
from sparsetrain.selection.select import Formula, best

NORMALISE = ("none", "sum", "max", "std")
AFTER = ("continue", "rewind_init", "rewind_dense")


@dataclass(frozen=True)
class DRIVE(Masking):
    r"""Prune to `sparsity` in `rounds` rounds after `dense_steps` steps of dense training.

        score = alpha * |w| / A  +  beta * |w * g| / B  +  gamma * |g| / C

    with A, B, C the sums of the terms over what is ranked together (`normalise="sum"`): the
    network, or with an allocation by layer each layer. After round r of T the share
    (1 - sparsity)^(r / T) of the weights is kept, exactly; what is pruned stays pruned. The
    gradient g is the training loop's own, summed over the `batches` steps up to the round, so that
    pruning costs no extra forward or backward pass. (Our reading; see the file's head.)

    Attributes:
        dense_steps: steps before the first round.
        rounds: pruning rounds.
        interval: steps from one round to the next.
        batches: steps whose gradients are summed for a score, at most `interval`.
        alpha, beta, gamma: weights of the three terms.
        normalise: what each term is divided by: its "sum", "max", "std", or nothing ("none").
        after: after the last round "continue" with the weights as they are, or set what was kept
            back to its value at the start ("rewind_init") or before round 1 ("rewind_dense").

    The other options are those of `Masking`.
    """

    dense_steps: int
    rounds: int = 10
    interval: int = 10
    batches: int = 1
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    normalise: Literal["none", "sum", "max", "std"] = "sum"
    after: Literal["continue", "rewind_init", "rewind_dense"] = "continue"

    NEEDS_GRADIENTS = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dense_steps < 0 or min(self.rounds, self.interval, self.batches) < 1:
            raise self._wrong(
                "need dense_steps >= 0 and rounds, interval, batches >= 1, got"
                f" {self.dense_steps}, {self.rounds}, {self.interval}, {self.batches}"
            )
        if self.batches > self.interval:
            raise self._wrong(f"batches={self.batches} exceeds interval={self.interval}")
        self._one_of("normalise", NORMALISE)
        self._one_of("after", AFTER)

    @property
    def last_round(self) -> int:
        """The step, counted from 1, whose gradient decides the last round."""
        return self.dense_steps + 1 + (self.rounds - 1) * self.interval

    @property
    def _rounds(self) -> Steps:
        return Steps(self.dense_steps + 1, self.last_round, self.interval)

    def next_change(self, step: int) -> float:
        return max(step + 1, self._rounds.after(step) - self.batches + 1)

    def _missed(self) -> str | None:
        return self._short_of("the last round", self.last_round)

    def _begin(self) -> None:
        memory = self._state.memory
        memory["gradients"] = {}  # summed for the coming round
        memory["snapshot"] = snapshot(self._state.model) if self.after == "rewind_init" else {}

    def _act(self, step: int) -> None:
        rounds = self._rounds
        coming = next((i for i in range(self.batches) if rounds.due(step + i)), None)
        if coming is None:
            return
        self._collect()
        if coming == 0:
            self._prune((step - rounds.first) // self.interval + 1)

    def _collect(self) -> None:
        gradients = self._state.memory["gradients"]
        for name, grad in self._finite_gradients().items():
            grad = grad * self.masks[name]
            before = gradients.get(name)
            gradients[name] = grad if before is None else before.add_(grad)

    def _prune(self, round_: int) -> None:
        memory, names = self._state.memory, list(self._state.parameters)
        if round_ == 1 and self.after == "rewind_dense":
            memory["snapshot"] = snapshot(self._state.model)
        now = exponential(0.0, self.sparsity, round_ / self.rounds)
        if self.allocation == "global":
            kept = self._ranked(names, self._state.amounts.kept(now))
        else:
            by_layer = self._state.amounts.kept(now, self._live(self.masks))
            assert isinstance(by_layer, dict)
            kept = {}
            for name in names:
                kept |= self._ranked([name], by_layer[name])
        memory["gradients"] = {}
        self._change(kept)
        if round_ == self.rounds and self.after != "continue":
            self._rewind()
            self._apply()

    def _ranked(self, names: list[str], k: int | dict[str, int]) -> dict[str, Tensor]:
        """The k best of these layers by the score."""
        weights = {n: self._state.parameters[n].detach() for n in names}
        grads = {n: self._state.memory["gradients"][n] for n in names}
        factors = (self.alpha, self.beta, self.gamma)
        sizes = self._sizes(list(weights.values()), list(grads.values()))
        scaled = (f / size if size > 0 else 0.0 for f, size in zip(factors, sizes, strict=True))
        return best(
            weights,
            grads,
            k=k,
            formula=Formula("blend", *scaled),
            pattern=self._patterns,
            within={n: self.masks[n] for n in names},
            floor={n: f for n, f in self._state.amounts.floors.items() if n in weights},
        )

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
        s = self._state
        own = s.model.state_dict(keep_vars=True)
        for name, before in s.memory["snapshot"].items():
            own[name].copy_(before)
        for parameter in s.model.parameters():
            for state in state_like(s.optimizer, parameter):
                state.zero_()
        s.memory["snapshot"] = {}


def _size(parts: list[Tensor], how: str) -> float:
    if how == "max":
        return max(float(p.max()) for p in parts)
    count = sum(p.numel() for p in parts)
    total = sum(float(p.sum(dtype=torch.float64)) for p in parts)
    if how == "sum":
        return total
    squares = sum(float(p.double().square().sum()) for p in parts)
    return max(squares / count - (total / count) ** 2, 0.0) ** 0.5
