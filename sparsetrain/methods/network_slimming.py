"""Network slimming: train with an L1 penalty on the norms' scales, then remove what shrank."""

from dataclasses import dataclass
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from sparsetrain.methods.channel_pruning import InRounds, Score
from sparsetrain.scores import Slimming
from sparsetrain.shrink import Graph


@dataclass(frozen=True)
class NetworkSlimming(InRounds):
    r"""Prune at step `at`, by one threshold for all layers, and train on without the penalty.

        grad(gamma) += s * sign(gamma)    until then, for every batch norm; score |gamma|

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
    arXiv:1708.06519 (github.com/Eric-mingjie/network-slimming): `channels=1 - p` and `round_to=1`
    remove the share p of all channels. There a layer can lose all its channels and training breaks;
    here each keeps `min_channels`. What has no norm of its own must be in `protect`.

    Attributes:
        sample: one input of the model, or a tuple or dict of them.
        s: strength of the penalty; 1e-4 for VGG, 1e-5 for ResNet-164 and DenseNet in the code.

    The other options are those of `InRounds` and `Shrinking`.
    """

    sample: Any
    s: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.s < 0:
            raise self._wrong(f"s must be 0 or more, got {self.s}")

    @property
    def _sample(self) -> Any:
        return self.sample

    @property
    def _score(self) -> Score:
        return Slimming()

    def _look(self, graph: Graph) -> None:
        self._score(self._state.model, graph)  # a group without a norm is said now
        super()._look(graph)

    def _between(self, step: int) -> None:
        if step > self.last_round:
            return
        for module in self._state.model.modules():
            if isinstance(module, _BatchNorm) and module.affine and module.weight.grad is not None:
                module.weight.grad.add_(module.weight.sign(), alpha=self.s)
