"""Wanda: prune a trained network by weights and activations, without changing what stays.

Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024,
arXiv:2306.11695; code locuslab/wanda.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.methods.calibrated import Calibrated, as_rows, from_rows
from sparsetrain.selection.patterns import NM
from sparsetrain.selection.select import best


@dataclass(frozen=True)
class Wanda(Calibrated):
    r"""Keep in each output row the largest of |w_ij| * ||x_j||.

        score_ij = |w_ij| * sqrt( mean over sequences of ||x_j||^2 );
        each row of C columns loses int(C * sparsity), or each group of m loses m - n

    as the code does: all rows of a layer, and all layers, have the same share, so `floor`, `count`
    and allocations other than "uniform" have no meaning. Rows and columns of a convolution are its
    output channels and the entries of its patches (our reading; the paper has linear layers).
    Layers are calibrated as `Calibrated` says. Batch norms want their statistics estimated again
    afterwards: `sparsetrain.recalibrate(model, batches)`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allocation != "uniform" or self.floor or self.count != "prunable":
            raise self._wrong(
                "every row loses the same share, so allocation, floor and count are fixed, got"
                f" {self.allocation!r}, {self.floor}, {self.count!r}"
            )

    def _statistic(self, columns: Tensor) -> Tensor:
        return columns.float().square().sum(-1, dtype=torch.float64)

    def _prune(self, name: str, weight: Tensor, statistic: Tensor) -> tuple[Tensor, Tensor]:
        norms = statistic.sqrt().float().unsqueeze(1)
        score = from_rows(as_rows(weight.float().abs(), len(statistic)) * norms, weight)
        if isinstance(self.pattern, NM):
            return weight, best({name: score}, k=0, pattern=self.pattern)[name]
        rows = score.flatten(1)
        width = rows.shape[1]
        kept = width - int(round(width * self.sparsity, 9))
        winners = rows.argsort(dim=1, descending=True, stable=True)[:, :kept]
        mask = torch.zeros_like(rows, dtype=torch.bool).scatter(1, winners, True)
        return weight, mask.view(weight.shape)
