"""What methods share that prune a trained network layer by layer, by the inputs of its layers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.methods.masking import Masking
from sparsetrain.methods.probe import output_at
from sparsetrain.selection import patterns
from sparsetrain.selection.allocate import Allocation
from sparsetrain.selection.masks import KINDS
from sparsetrain.support.modes import quietly


@dataclass(frozen=True)
class Calibrated(Masking):
    """Prune at the start, one Linear or Conv2d layer after the other in the order they run in.

    Each layer sees what the layers before it, pruned already, make of the batches; the model runs
    in evaluation mode. A convolution is taken as the linear layer that it applies to each patch.

    Attributes:
        batches: calibration inputs, each as `plan`'s sample, without targets.
        allocation: of the layers' shares; "global" has no meaning here.
    """

    batches: Sequence[Any]
    allocation: Allocation = field(default="uniform", kw_only=True)

    PATTERNS = (patterns.Unstructured, patterns.NM)
    NEEDS_OPTIMIZER = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.batches):
            raise self._wrong("needs at least one batch of inputs, got none")
        if self.allocation == "global":
            raise self._wrong(
                "layers are pruned one after the other, so there is no global allocation; take"
                " uniform, uniform+ or erk"
            )

    def _statistic(self, columns: Tensor) -> Tensor:
        """What is summed over a layer's inputs `[groups, columns, samples]`."""
        raise NotImplementedError

    def _prune(self, name: str, weight: Tensor, statistic: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's new weight and mask, by the mean of the statistic over sequences."""
        raise NotImplementedError

    @torch.no_grad()
    def _begin(self) -> None:
        model, parameters = self._state.model, self._state.parameters
        weights = {n: p.detach() for n, p in parameters.items()}
        masks = dict(self.masks)
        with quietly(model, training=False):
            for name, layers in self._in_order().items():
                mean = self._mean_statistic(layers, weights)
                weight, masks[name] = self._prune(name, weights[name], mean)
                weights[name] = weight.masked_fill(~masks[name], 0).to(parameters[name])
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
        self._change(masks)

    def _mean_statistic(self, layers: list[nn.Module], weights: dict[str, Tensor]) -> Tensor:
        """Of all inputs that these layers, which share a weight, get from the batches."""
        total, sequences = torch.zeros(()), 0

        def see(layer: nn.Module, x: Tensor) -> None:
            nonlocal total, sequences
            total = total.to(x.device) + self._statistic(columns(layer, x))
            sequences += len(x)

        with _watching(layers, see):
            for batch in self.batches:
                output_at(self._state.model, weights, batch)
        return total / sequences

    def _in_order(self) -> dict[str, list[nn.Module]]:
        """Weight -> layers that have it, in the order in which they run first."""
        names = {id(p): n for n, p in self._state.parameters.items()}
        layers = [m for m in self._state.model.modules() if isinstance(m, KINDS)]
        owned: dict[nn.Module, str] = {}
        owned |= {layer: names[id(layer.weight)] for layer in layers if id(layer.weight) in names}
        for layer, name in owned.items():
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                kind = type(layer).__name__
                raise self._wrong(f"{name} is a {kind}'s; it takes Linear and Conv2d, exclude it")
        found: dict[str, list[nn.Module]] = {}
        with _watching(list(owned), lambda layer, _: found.setdefault(owned[layer], [])):
            output_at(self._state.model, {}, self.batches[0])
        for layer, name in owned.items():
            if name not in found:
                raise self._wrong(f"the layer of {name} is not called on the batches; exclude it")
            found[name].append(layer)
        return found


def columns(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's inputs as `[groups, columns, samples]`, columns as in `as_rows`."""
    if not isinstance(layer, nn.Conv2d):
        return x.flatten(0, -2).T[None]
    x = x if x.dim() == 4 else x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    stride, dilation = tuple(layer.stride), tuple(layer.dilation)
    patches = F.unfold(x, layer.kernel_size, dilation=dilation, stride=stride)  # [N, I * taps, L]
    inputs, taps = layer.in_channels // layer.groups, layer.weight[0, 0].numel()
    patches = patches.view(len(x), layer.groups, inputs, taps, -1)
    return patches.permute(1, 3, 2, 0, 4).flatten(3).flatten(1, 2)


def as_rows(weight: Tensor, groups: int) -> Tensor:
    """`[O, I, *kernel]` as `[groups, O / groups, columns]`, inputs fastest: n:m is consecutive."""
    return weight.movedim(1, -1).reshape(groups, weight.shape[0] // groups, -1)


def from_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """`as_rows` undone, to the shape of weight."""
    return rows.reshape(weight.movedim(1, -1).shape).movedim(-1, 1)


@contextmanager
def _watching(layers: list[nn.Module], see: Callable[[nn.Module, Tensor], Any]) -> Iterator[None]:
    """Call see(layer, input) before each layer runs."""

    def hook(layer: nn.Module, args: Any, kwargs: Any) -> None:
        see(layer, args[0] if args else kwargs["input"])

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
