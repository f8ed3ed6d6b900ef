"""Running one block of a model as the model would, without the blocks around it.

The model's own forward pass calls the blocks. For block i, those before it are stood in for by what
the last of them made of the batch, which is kept, and the pass ends once block i has run: arguments
that the model makes for its blocks (masks, positions) are as ever, and a block is computed only
when its turn has come. Whether a model allows this is tried out on a batch of each path through it;
one that does not (a block reads what came long before) runs whole.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from sparsetrain.shrink import arguments

Unit = tuple[nn.Module, ...]  # blocks that share a weight, or one
CLOSE = 1e-4  # of two fingerprints that are of the same tensors


class _Done(BaseException):
    """The block has run; no model's own `except` is to catch this."""


@dataclass
class Chain:
    """The units of a model in the order in which they run.

    Attributes:
        units: in this order.
        unreached: of the layers that were to be reached, those that no batch reaches.
        alone: whether a unit runs by itself; else the model runs as a whole for each.
        outputs: number of a batch -> [what the last unit that ran has made of it].
    """

    model: nn.Module
    units: list[Unit]
    unreached: set[nn.Module]
    alone: bool = False
    outputs: dict[int, list[Any]] = field(default_factory=dict)

    def run(self, index: int, batches: Sequence[Any], keep: bool) -> Iterator[int]:
        """Run a unit on each batch; yields before each the batch's number.

        Args:
            keep: hold what it makes of them, for the units behind it.
        """
        if not self.alone:
            for number, batch in enumerate(batches):
                yield number
                call(self.model, batch)
            return
        for number, batch in enumerate(batches):
            yield number
            with self._only(index, self.outputs.get(number)) as made, suppress(_Done):
                call(self.model, batch)
            if keep and made:
                self.outputs[number] = made

    @contextmanager
    def _only(self, index: int, given: list[Any] | None) -> Iterator[list[Any]]:
        """The pass computes this unit, and ends; yields what it returned."""
        before = [unit[0] for unit in self.units[:index]] if given else []
        block, *behind = [unit[0] for unit in self.units[index:]]
        made: list[Any] = []

        def after(module: nn.Module, args: Any, output: Any) -> None:
            made.append(output)
            raise _Done

        handle = block.register_forward_hook(after)
        try:
            with hooked(behind, _stop), _stood_in(self.model, before, given):
                yield made
        finally:
            handle.remove()


@dataclass
class _Pass:
    """What one whole pass has shown."""

    number: int  # of the batch
    inputs: dict[nn.Module, list[Tensor]]  # fingerprints
    outputs: dict[nn.Module, Any]


def chain_of(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    batches: Sequence[Any],
    layers: Collection[nn.Module],
) -> Chain:
    """The blocks in the order in which the batches reach them; what no batch reaches comes last.

    Args:
        layers: batches are looked at until each of these has run.
    """
    units = _sharing(blocks)
    paths, repeated, reached = _paths(model, units, batches, layers)
    order, sorted_ = _ordered(paths)
    order += [i for i in range(len(units)) if i not in order]
    chain = Chain(model, [units[i] for i in order], set(layers) - reached)
    if sorted_ and not repeated and all(len(unit) == 1 for unit in units):
        chain.alone = True
        chain.alone = all(_runs_alone(chain, batches, seen) for seen in paths.values())
        chain.outputs.clear()
    return chain


def call(model: nn.Module, batch: Any) -> None:
    """Run a model on inputs as `plan`'s sample, or on a pair's input where it takes one alone."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        try:
            signature(model.forward).bind(*batch)
        except TypeError:
            batch = batch[0]
    args, kwargs = arguments(batch)
    model(*args, **kwargs)


@contextmanager
def hooked(
    modules: Iterable[nn.Module], see: Callable[[nn.Module, tuple, dict], Any]
) -> Iterator[None]:
    """Call see(module, args, kwargs) before each of these modules runs."""

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        see(module, args, kwargs)

    handles = [m.register_forward_pre_hook(hook, with_kwargs=True) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stop(*_: Any) -> None:
    raise _Done


def _sharing(blocks: Sequence[nn.Module]) -> list[Unit]:
    """Blocks that share a parameter are calibrated together."""
    units: list[tuple[list[nn.Module], set[int]]] = []
    for block in blocks:
        own = {id(p) for p in block.parameters()}
        same = [unit for unit in units if unit[1] & own]
        units = [unit for unit in units if not unit[1] & own]
        held = [m for modules, _ in same for m in modules]
        units.append(([*held, block], own.union(*(ids for _, ids in same))))
    return [tuple(modules) for modules, _ in units]


def _paths(
    model: nn.Module,
    units: Sequence[Unit],
    batches: Sequence[Any],
    layers: Collection[nn.Module],
) -> tuple[dict[tuple[int, ...], _Pass], bool, set[nn.Module]]:
    """{units as they run: the first such pass}, whether one runs twice, and the layers that ran."""
    index = {block: i for i, unit in enumerate(units) for block in unit}
    paths: dict[tuple[int, ...], _Pass] = {}
    repeated, reached = False, set()
    for number, batch in enumerate(batches):
        path: list[int] = []
        seen = _Pass(number, {}, {})
        handles = [b.register_forward_hook(_storing(seen.outputs)) for b in index]

        def note(block: nn.Module, *given: Any, path: list[int] = path, seen: _Pass = seen) -> None:
            path.append(index[block])
            seen.inputs[block] = _fingerprint(given)

        with hooked(index, note), hooked(layers, lambda layer, *_: reached.add(layer)):
            call(model, batch)
        for handle in handles:
            handle.remove()
        repeated = repeated or len(set(path)) < len(path)
        paths.setdefault(tuple(dict.fromkeys(path)), seen)
        if len(reached) == len(layers):
            break
    return paths, repeated, reached


def _storing(outputs: dict[nn.Module, Any]) -> Callable[[nn.Module, Any, Any], None]:
    def store(block: nn.Module, args: Any, output: Any) -> None:
        outputs[block] = tree_map_only(Tensor, torch.clone, output)

    return store


def _ordered(paths: Iterable[Sequence[int]]) -> tuple[list[int], bool]:
    """An order that agrees with every path, and whether there is one."""
    known = list(dict.fromkeys(i for path in paths for i in path))
    sorter: TopologicalSorter[int] = TopologicalSorter(dict.fromkeys(known, ()))
    for path in paths:
        for earlier, later in pairwise(path):
            sorter.add(later, earlier)
    try:
        return list(sorter.static_order()), True
    except CycleError:
        return known, False


def _runs_alone(chain: Chain, batches: Sequence[Any], seen: _Pass) -> bool:
    """Whether each unit gets by itself what it got when the model ran as a whole."""
    found: dict[nn.Module, list[Tensor]] = {}

    def look(block: nn.Module, *given: Any) -> None:
        found[block] = _fingerprint(given)
        raise _Done

    before: list[Any] | None = None
    for index, (block,) in enumerate(chain.units):
        if block not in seen.inputs:
            continue
        try:
            with chain._only(index, before), hooked([block], look), suppress(_Done):
                call(chain.model, batches[seen.number])
        except Exception:  # whatever the model makes of calls that it does not know
            return False
        if not _same(seen.inputs[block], found.get(block)):
            return False
        before = [seen.outputs[block]]
    return True


def _fingerprint(given: Any) -> list[Tensor]:
    tensors = [t for t in tree_leaves(given) if isinstance(t, Tensor)]
    numbers = [t.detach().double().nan_to_num().flatten() for t in tensors]
    return [torch.stack([n.sum(), n.abs().sum(), (n[1:] * n[:-1]).sum()]).cpu() for n in numbers]


def _same(wanted: list[Tensor], found: list[Tensor] | None) -> bool:
    if found is None or len(wanted) != len(found):
        return False
    return all(
        bool((w - f).abs().max() <= CLOSE * w[1].clamp(min=1e-30))
        for w, f in zip(wanted, found, strict=True)
    )


class _StandIn(nn.Module):
    """Returns what a block had made, whatever it is called with; any attribute is the block's."""

    def __init__(self, block: nn.Module, given: Any) -> None:
        super().__init__()
        self.__dict__["held"] = (block, given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["held"][0], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        given = self.__dict__["held"][1]
        return tree_map_only(Tensor, torch.clone, given)  # others may change it in place


@contextmanager
def _stood_in(
    model: nn.Module, blocks: Sequence[nn.Module], given: list[Any] | None
) -> Iterator[None]:
    """Others in the place of these blocks, which are not called: their hooks rest, too."""
    wanted = set(blocks) if given else set()
    places = [
        (held, name, child)
        for held in (model.modules() if wanted else ())
        for name, child in held._modules.items()
        if child in wanted
    ]
    try:
        for held, name, child in places:
            held._modules[name] = _StandIn(child, given[0] if given else None)
        yield
    finally:
        for held, name, child in places:
            held._modules[name] = child


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """No keys and values of earlier tokens are kept, where a model's config can say so."""
    config = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    if cached:
        config.use_cache = False
    try:
        yield
    finally:
        if cached:
            config.use_cache = cached
