"""SparseGPT: prune a trained network and let the weights that stay make up for it.

Frantar & Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
ICML 2023, arXiv:2301.00774; code IST-DASLab/sparsegpt.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.methods.calibrated import Calibrated, as_rows, from_rows
from sparsetrain.ops import nm_mask
from sparsetrain.selection.patterns import NM


@dataclass(frozen=True)
class SparseGPT(Calibrated):
    r"""Remove the weights that least change a layer's outputs, column by column.

        H = 2/N * sum of x x^T, plus damp * mean(diag H) on its diagonal;  U^T U = H^-1
        in blocks of columns: remove the smallest w_ij^2 / U_jj^2, all rows together;
        then for each column j: e = w_j / U_jj where it is removed,  W[:, j:] -= e U[j, j:]

    Inputs that are never active have their weights set to 0 first. With a pattern NM each group of
    m columns is decided when its first column is reached. Each layer loses exactly what
    `allocation` says, block by block in proportion; the code removes one more in each block, and
    has every layer at the same share. Columns of a convolution are ordered by tap, then by input.
    All is computed in float64. An averaged copy of the model is masked, not updated. Layers are
    calibrated as `Calibrated` says. Batch norms want their statistics estimated again afterwards:
    `sparsetrain.recalibrate(model, batches)`.

    Attributes:
        block: columns in a block.
        damp: share of the mean of H's diagonal that is added to it.
    """

    block: int = 128
    damp: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 1 or not self.damp > 0:
            raise self._wrong(f"need block >= 1 and damp > 0, got {self.block}, {self.damp}")
        if isinstance(self.pattern, NM) and (
            self.pattern.transposable or self.block < self.pattern.m
        ):
            raise self._wrong(
                f"a pattern NM must fit into block={self.block} and cannot be transposable, got"
                f" {self.pattern}"
            )

    def _statistic(self, columns: Tensor) -> Tensor:
        columns = columns.double()
        return 2 * columns @ columns.mT

    def _prune(self, name: str, weight: Tensor, statistic: Tensor) -> tuple[Tensor, Tensor]:
        groups = len(statistic)
        rows = as_rows(weight, groups).double()
        counts = self._state.amounts.kept(self.sparsity)
        zeros = 0 if isinstance(counts, int) else weight.numel() - counts[name]
        keep = []
        for group, hessian in enumerate(statistic):
            share = zeros * (group + 1) // groups - zeros * group // groups
            keep.append(self._solve_(rows[group], hessian, share))
        return from_rows(rows, weight), from_rows(torch.stack(keep), weight)

    def _solve_(self, rows: Tensor, hessian: Tensor, zeros: int) -> Tensor:
        """Prune and update rows `[R, C]` in place; returns what is kept, bool."""
        root = _inverse_root_(rows, hessian, self.damp)
        keep, width = torch.ones_like(rows, dtype=torch.bool), rows.shape[1]
        size = (
            self.block - self.block % self.pattern.m if isinstance(self.pattern, NM) else self.block
        )
        for first in range(0, width, size):
            last = min(first + size, width)
            inside = slice(first, last)
            if not isinstance(self.pattern, NM):
                quota = zeros * last // width - zeros * first // width
                worth = (rows[:, inside] / root.diagonal()[inside]).square()
                keep[:, inside] = _without_lowest(worth, quota)
            errors = torch.zeros_like(rows[:, inside])
            for j in range(first, last):
                if isinstance(self.pattern, NM) and (j - first) % self.pattern.m == 0:
                    group = slice(j, j + self.pattern.m)
                    worth = (rows[:, group] / root.diagonal()[group]).square()
                    keep[:, group] = nm_mask(worth, self.pattern.n, self.pattern.m)
                error = rows[:, j].masked_fill(keep[:, j], 0) / root[j, j]
                rows[:, j:last] -= torch.outer(error, root[j, j:last])
                errors[:, j - first] = error
            rows[:, last:] -= errors @ root[inside, last:]
        return keep


def _inverse_root_(rows: Tensor, hessian: Tensor, damp: float) -> Tensor:
    """U, upper triangular; weights of inputs that are never active become 0."""
    dead = hessian.diagonal() == 0
    rows.masked_fill_(dead, 0)
    hessian = hessian + torch.diag(dead.to(hessian))
    hessian = hessian + damp * hessian.diagonal().mean() * torch.eye(len(hessian)).to(hessian)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


def _without_lowest(worth: Tensor, quota: int) -> Tensor:
    order = worth.flatten().argsort(descending=True, stable=True)
    keep = torch.zeros(worth.numel(), dtype=torch.bool, device=worth.device)
    return keep.index_fill(0, order[: len(order) - quota], True).view(worth.shape)
