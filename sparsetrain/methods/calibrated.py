"""What methods share that prune a trained network block by block, by the inputs of its layers."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from sparsetrain.distributed import equal_over, mean_over_
from sparsetrain.methods.blocks import blocks_of
from sparsetrain.methods.chain import Chain, chain_of
from sparsetrain.methods.masking import Masking
from sparsetrain.methods.standing import hooked, without_cache
from sparsetrain.selection import patterns
from sparsetrain.selection.allocate import Allocation
from sparsetrain.selection.masks import KINDS
from sparsetrain.selection.reach import EMBEDDINGS, Exclude, heads, is_transformers_conv1d, listed
from sparsetrain.selection.weight import Weight
from sparsetrain.support.modes import quietly


@dataclass(frozen=True)
class Calibrated(Masking):
    """Prune at the start, one block after the other in the order they run in.

    A block runs twice on each batch: dense, for the statistics of its layers' inputs, and pruned,
    for the inputs of the next one; so cost is linear in depth, and memory holds what one block
    makes of the batches, besides these. Blocks are found (methods/blocks.py) or named. Where a
    model does not let one run by itself (methods/chain.py), it runs whole for each: the same
    numbers for more time. The model runs in evaluation mode. A convolution is taken as the linear
    layer that it applies to each patch. Tokens that an attention mask leaves out do not count.

    The output layer of a language model (`get_output_embeddings()`, or tied to an nn.Embedding)
    stays dense, as in the code of both methods. A network with batch norms wants its statistics
    estimated again afterwards: `sparsetrain.recalibrate`. No optimizer is needed.

    Where several ranks run, each with its own batches, statistics are summed over them.

    Attributes:
        batches: calibration inputs, each as `plan`'s sample, or (input, target) pairs where the
            model takes one input; a list, a loader or a generator, which is read once.
        blocks: dotted name of the list whose entries are blocks, or the names of the blocks.
        mask: the entry of a batch (a dict) that says which tokens count, `[N, T]`.
        head: prune a language model's output layer, too.
        progress: show a bar, where there is a terminal.
        allocation: of the layers' shares; "global" has no meaning here.
    """

    batches: Iterable[Any]
    allocation: Allocation = field(default="uniform", kw_only=True)
    blocks: str | tuple[str, ...] | None = field(default=None, kw_only=True)
    mask: str = field(default="attention_mask", kw_only=True)
    head: bool = field(default=False, kw_only=True)
    progress: bool = field(default=True, kw_only=True)

    PATTERNS = (patterns.Unstructured, patterns.NM)
    MADE = False
    NEEDS_OPTIMIZER = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.batches, Sized) and not len(self.batches):
            raise self._wrong("needs at least one batch of inputs, got none")
        if self.allocation == "global":
            raise self._wrong(
                "layers are pruned one after the other, so there is no global allocation; take"
                " uniform, uniform+ or erk"
            )

    def _unfit(self, weight: Weight) -> str:
        layer = weight.layer
        if isinstance(layer, NonDynamicallyQuantizableLinear):
            return "read by attention, which does not call it"
        known = isinstance(layer, KINDS) or is_transformers_conv1d(layer)
        return super()._unfit(weight) if known else f"of {type(layer).__name__}"

    def _asked(self, model: nn.Module) -> Exclude:
        return listed(self.include) + heads(model) * self.head

    def _statistic(self, columns: Tensor) -> Tensor:
        """What is summed over a layer's inputs `[groups, columns, samples]`."""
        raise NotImplementedError

    def _prune(self, name: str, weight: Tensor, statistic: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's new weight and mask, by the mean of the statistic over sequences."""
        raise NotImplementedError

    @torch.no_grad()
    def _begin(self) -> None:
        model, masks, batches = self._state.model, dict(self.masks), list(self.batches)
        if not batches:
            raise self._wrong("needs at least one batch of inputs, got none")
        owned = self._layers()
        with quietly(model, training=False), without_cache(model):
            chain = chain_of(model, blocks_of(model, owned, self.blocks), batches, owned)
            self._check_reached(chain, owned)
            for index in self._shown(range(len(chain.units)), len(chain.units)):
                masks |= self._calibrate(chain, index, owned, batches)
        self._change(masks)

    def _shown(self, indices: Iterable[int], total: int) -> Iterator[int]:
        console = Console(stderr=True)
        if not self.progress or not console.is_terminal:
            yield from indices
            return
        label = f"{type(self).__name__}: blocks"
        yield from track(indices, label, total=total, console=console, transient=True)

    def _calibrate(
        self, chain: Chain, index: int, owned: dict[nn.Module, str], batches: list[Any]
    ) -> dict[str, Tensor]:
        """Prune the layers of a block in place; their masks."""
        inside = {m for block in chain.units[index] for m in block.modules()}
        layers = {layer: name for layer, name in owned.items() if layer in inside}
        means = self._statistics(chain, index, layers, batches)
        masks = {}
        for name, mean in means.items():
            parameter = self._state.parameters[name]
            lies = self._state.reach.weights[name]
            weight, mask = self._prune(name, lies.turned(parameter.detach()), mean)
            masks[name] = lies.back(mask)
            parameter.copy_(lies.back(weight).masked_fill(~masks[name], 0))
        if chain.alone:
            for _ in chain.run(index, batches, keep=True):
                pass
        return masks

    def _statistics(
        self, chain: Chain, index: int, layers: dict[nn.Module, str], batches: list[Any]
    ) -> dict[str, Tensor]:
        """Means over all inputs that the layers with a weight get from the batches."""
        totals: dict[str, Tensor] = {}
        sequences = dict.fromkeys(layers.values(), 0)
        counting: Tensor | None = None

        def see(layer: nn.Module, args: tuple, kwargs: dict) -> None:
            x, name = args[0] if args else kwargs["input"], layers[layer]
            sequences[name] += len(x)
            found = self._statistic(columns(layer, _counted(x, counting)))
            totals[name] = totals[name].add_(found.to(totals[name])) if name in totals else found

        with hooked(layers, see):
            for number in chain.run(index, batches, keep=False):
                counting = _mask_of(batches[number], self.mask)
        for layer, name in layers.items():
            if name not in totals:  # another rank's batches reach it
                totals[name] = self._statistic(
                    columns(layer, _nothing(layer, self._state.reach.weights[name]))
                )
        means = [totals[n] for n in sequences]  # in one order on all ranks
        counts = [torch.tensor(c, dtype=torch.float64) for c in sequences.values()]
        mean_over_(self._together, [*means, *counts])
        pairs = zip(sequences, means, counts, strict=True)
        return {name: mean / float(count) for name, mean, count in pairs}

    def _check_reached(self, chain: Chain, owned: dict[nn.Module, str]) -> None:
        """Every layer gets inputs, on some rank, and all ranks calibrate in one order."""
        found = dict.fromkeys(owned.values(), 0.0)
        found |= {name: 1.0 for layer, name in owned.items() if layer not in chain.unreached}
        reached = torch.tensor(list(found.values()), dtype=torch.float64)
        mean_over_(self._together, [reached])
        for name, share in zip(found, reached.tolist(), strict=True):
            if not share:
                raise self._wrong(f"the layer of {name} is not called on the batches; exclude it")
        names = {module: name for name, module in self._state.model.named_modules()}
        if not equal_over(self._together, [[names[m] for m in unit] for unit in chain.units]):
            raise self._wrong(
                "the ranks' batches reach the blocks in different orders; give all the same batches"
            )

    def _layers(self) -> dict[nn.Module, str]:
        """The layers to be pruned, with their weights' names."""
        names = {id(p): n for n, p in self._state.parameters.items()}
        layers = {
            m: m._parameters.get("weight")
            for m in self._state.model.modules()
            if not isinstance(m, EMBEDDINGS)  # to which a head may be tied
        }
        owned = {layer: names[id(w)] for layer, w in layers.items() if id(w) in names}
        for layer, name in owned.items():
            if isinstance(layer, nn.Conv1d | nn.Conv3d):
                kind = type(layer).__name__
                raise self._wrong(f"{name} is a {kind}'s; it takes Linear and Conv2d, exclude it")
        return owned


def _nothing(layer: nn.Module, weight: Weight) -> Tensor:
    """An input that adds nothing to a statistic."""
    zeros = weight.parameter.new_zeros
    if isinstance(layer, nn.Conv2d):
        size = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return zeros(1, layer.in_channels, *size)
    return zeros(1, weight.shape[1])


def _mask_of(batch: Any, name: str) -> Tensor | None:
    """`[N, T]` bool, true for tokens that count, where the batch has such an entry."""
    mask = batch.get(name) if isinstance(batch, Mapping) else None
    return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None


def _counted(x: Tensor, counting: Tensor | None) -> Tensor:
    """Inputs `[tokens, C]` of the tokens that count; any other input as it is."""
    if counting is None or x.dim() < 2:
        return x
    if x.dim() == 3 and x.shape[:2] == counting.shape:
        return x[counting.to(x.device)]
    flat = counting.flatten()
    return x[flat.to(x.device)] if x.dim() == 2 and len(x) == len(flat) else x


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
