"""Pruning in several rounds before training: SynFlow, Iter-SNIP, FORCE.

Each round scores the network as pruned so far. After round r of T the share of the weights that is
kept is (1 - sparsity)^(r / T), or falls on a line with `schedule="linear"`; the last is exact.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from sparsetrain.methods.masking import Masking
from sparsetrain.methods.probe import Batch, Probing, output_at
from sparsetrain.selection.masks import Masks
from sparsetrain.selection.schedules import SHAPES
from sparsetrain.support.modes import quietly
from sparsetrain.support.wrapped import bare, bare_parameters

SCHEDULES = ("exponential", "linear")


@dataclass(frozen=True)
class SynFlow(Masking):
    r"""Keep what carries the most flow through the network of absolute values; needs no data.

        R = sum of the outputs at input 1,  score = | w * dR/dw |,  in `rounds` rounds

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic
    flow", NeurIPS 2020, arXiv:2006.05467; code ganguli-lab/Synaptic-Flow. All tensors of the
    model's state_dict are replaced by their absolute values, batch norms use their running
    statistics, and what is pruned stays pruned. R is computed in float64 (the code has that line
    commented out: fp32 overflows in deep networks), and scores are divided by the largest before
    they are narrowed to fp32. A layer may lose all of its weights where flow goes around it, as
    along a shortcut; that nothing flows at all is an error.

    Where it prunes a network that was trained, batch norms want their statistics estimated again:
    `sparsetrain.recalibrate(model, batches)`.

    Attributes:
        sample: an input of the model, as in `plan`'s sample; only its shape is read, a batch of 1
            is taken. Tensors of integers (tokens) stay as they are (our reading).
        rounds: 100 in the paper.
        schedule: of the density, "exponential" or "linear".
    """

    sample: Any
    rounds: int = 100
    schedule: Literal["exponential", "linear"] = "exponential"

    NEEDS_OPTIMIZER = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    def flow(self, masks: Masks) -> dict[str, Tensor]:
        """float64 scores of the network under these masks, by name; call `start` first."""
        model, names = self._state.model, list(masks)
        saved = {
            bare(model, n) for n in model.state_dict()
        }  # all but buffers that are no part of it
        own = {**bare_parameters(model), **dict(model.named_buffers())}
        tensors = {n: t.detach().double() for n, t in own.items() if _floating(t)}
        tensors = {n: t.abs() if bare(model, n) in saved else t for n, t in tensors.items()}
        weights = [(tensors[n] * masks[n]).requires_grad_() for n in names]
        with torch.enable_grad(), quietly(model, training=False):
            output = output_at(
                model,
                {**tensors, **dict(zip(names, weights, strict=True))},
                tree_map(_ones, self.sample),
            )
            flow = torch.stack([t.sum() for t in tree_leaves(output) if _floating(t)]).sum()
            grads = torch.autograd.grad(flow, weights, materialize_grads=True)
        pairs = zip(names, weights, grads, strict=True)
        return {n: (w.detach() * g).abs() for n, w, g in pairs}

    def _begin(self) -> None:
        masks = _in_rounds(self, self._scores, self.rounds, self.schedule, monotone=True)
        self._scores(masks)  # raises where nothing flows any more
        self._change(masks, may_empty=True)

    def _scores(self, masks: Masks) -> dict[str, Tensor]:
        scores = self.flow(masks)
        largest = max(float(s.max()) for s in scores.values())
        if not 0 < largest < float("inf"):
            raise self._wrong(f"the largest score is {largest}; nothing or too much flows")
        return {n: s / largest for n, s in scores.items()}


@dataclass(frozen=True)
class IterSNIP(Probing):
    r"""SNIP in rounds: score = | w * g |, g the gradient of the network as pruned so far.

    What is pruned stays pruned. Each round's gradient is of new data: the next `per_round` of the
    batches, from the front again where they end.

    de Jorge et al., "Progressive Skeletonization: Trimming More Fat from a Network at
    Initialization", ICLR 2021, arXiv:2006.09081; code naver/force, which takes 10 rounds by default
    (60 in its examples), a new draw of 1 batch for 10 classes, 10 for 100, 20 for 200 in each, and
    the batches' statistics in batch norms.

    Where it prunes a network that was trained, batch norms want their statistics estimated again:
    `sparsetrain.recalibrate(model, batches)`.

    Attributes:
        batches: also a loader or a generator; it is asked for as many as the rounds need.
        rounds, schedule: see `SynFlow`.
        per_round: batches that a round's gradient is summed over.
        reuse: all batches in every round, in place of new ones.
    """

    rounds: int = 10
    schedule: Literal["exponential", "linear"] = "exponential"
    per_round: int = field(default=1, kw_only=True)
    reuse: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)
        if self.per_round < 1:
            raise self._wrong(f"per_round must be 1 or more, got {self.per_round}")

    MONOTONE: ClassVar[bool] = True

    def _begin(self) -> None:
        drawn = list(self.batches) if self.reuse else self._endless()

        def scores(masks: Masks) -> dict[str, Tensor]:
            return self._scores(masks, drawn if self.reuse else islice(drawn, self.per_round))

        masks = _in_rounds(self, scores, self.rounds, self.schedule, monotone=self.MONOTONE)
        self._change(masks)

    def _endless(self) -> Iterator[Batch]:
        """The batches, from the front again where they end."""
        given = 0
        while True:
            before = given
            for batch in self.batches:
                given += 1
                yield batch
            if given == before:
                raise self._wrong(
                    f"needs {self.rounds * self.per_round} batches for {self.rounds} rounds of"
                    f" {self.per_round}, and batches gives {given}, not from the front again; give"
                    " a list or a loader"
                )

    def _scores(self, masks: Masks, batches: Iterable[Batch]) -> dict[str, Tensor]:
        """|w * g|; 0 where it is pruned, since w is."""
        weights = {n: self._state.parameters[n].detach() * mask for n, mask in masks.items()}
        grads = self._gradients_at(weights, batches)
        return {n: (w * grads[n]).abs() for n, w in weights.items()}


@dataclass(frozen=True)
class FORCE(IterSNIP):
    r"""Iter-SNIP in which what is pruned may return: score = | w_dense * g |.

    g is the gradient of the network as pruned so far, w_dense the weight before any pruning; each
    round chooses among all weights. Paper, code and options: `IterSNIP`.

    Where it prunes a network that was trained, batch norms want their statistics estimated again:
    `sparsetrain.recalibrate(model, batches)`.
    """

    MONOTONE: ClassVar[bool] = False

    def _scores(self, masks: Masks, batches: Iterable[Batch]) -> dict[str, Tensor]:
        weights = {n: p.detach() for n, p in self._state.parameters.items()}
        grads = self._gradients_at({n: w * masks[n] for n, w in weights.items()}, batches)
        return {n: (w * grads[n]).abs() for n, w in weights.items()}


def _check(method: SynFlow | IterSNIP) -> None:
    if method.rounds < 1:
        raise method._wrong(f"rounds must be 1 or more, got {method.rounds}")
    method._one_of("schedule", SCHEDULES)


def _in_rounds(
    method: Masking,
    scores: Callable[[Masks], dict[str, Tensor]],
    rounds: int,
    schedule: str,
    monotone: bool,
) -> Masks:
    """The masks after the last round."""
    masks = dict(method.masks)
    for round_ in range(1, rounds + 1):
        now = SHAPES[schedule](0.0, method.sparsity, round_ / rounds)
        now = method.sparsity if round_ == rounds else now
        within = masks if monotone else None
        masks = method._choose(now, scores=scores(masks), within=within)
    return masks


def _ones(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.ones_like(leaf[:1], dtype=torch.float64) if _floating(leaf) else leaf[:1]


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
