"""Running one block of a model as the model would, without the blocks around it.

The model's own forward pass calls the blocks. For block i, the one before it is stood in for by
what it made of the batch, which is kept, the others by zeros, and the pass ends once block i has
run: arguments that the model makes for its blocks (masks, positions) are as ever, and a block is
computed only when its turn has come. What else block i needs (an encoder's output, a skip
connection) is tried out on a batch of each path through the model, and kept, too; a model whose
blocks run several times in one pass, or need all that came before, runs whole.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from sparsetrain.methods.standing import call, hooked, stood_in

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
        needed: for each unit, those before it whose outputs it gets.
        outputs: number of a batch -> unit -> what it made of it, zeros where nobody needs it.
    """

    model: nn.Module
    units: list[Unit]
    unreached: set[nn.Module]
    alone: bool = False
    needed: list[set[int]] = field(default_factory=list)
    outputs: dict[int, dict[int, Any]] = field(default_factory=dict)

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
            held = self.outputs.setdefault(number, {})
            with self._only(index, held) as made, suppress(_Done):
                call(self.model, batch)
            if keep and made:
                held[index] = made[0]
                later = set[int]().union(*self.needed[index + 1 :])
                held.update({j: _hollow(held[j]) for j in held.keys() - later})

    @contextmanager
    def _only(self, index: int, given: Mapping[int, Any]) -> Iterator[list[Any]]:
        """The pass computes this unit, and ends; yields what it returned."""
        before = {self.units[j][0]: output for j, output in given.items()}
        block, *behind = [unit[0] for unit in self.units[index:]]
        made: list[Any] = []

        def after(module: nn.Module, args: Any, output: Any) -> None:
            made.append(output)
            raise _Done

        handle = block.register_forward_hook(after)
        try:
            with hooked(behind, _stop), stood_in(self.model, before):
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
        chain.needed = [set() for _ in order]
        chain.alone = all(_runs_alone(chain, batches, seen) for seen in paths.values())
    return chain


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
    """Whether each unit gets by itself what it got when the model ran as a whole; and by which."""
    path = [i for i, (block,) in enumerate(chain.units) if block in seen.inputs]
    live: list[int] = []
    for position, index in enumerate(path):
        last = path[position - 1 : position]
        options = (last, [*live[:-1], *last], [*live, *last])
        given = {j: _hollow(seen.outputs[chain.units[j][0]]) for j in path[:position]}
        for option in options:
            real = {j: seen.outputs[chain.units[j][0]] for j in option}
            if _gets(chain, index, given | real, batches[seen.number], seen):
                live = option
                chain.needed[index] |= set(option)
                break
        else:
            return False
    return True


def _gets(chain: Chain, index: int, given: Mapping[int, Any], batch: Any, seen: _Pass) -> bool:
    """Whether a unit gets what it got in the whole pass, where others return what is given."""
    found: list[list[Tensor]] = []

    def look(block: nn.Module, *inputs: Any) -> None:
        found.append(_fingerprint(inputs))
        raise _Done

    (block,) = chain.units[index]
    try:
        with chain._only(index, given), hooked([block], look), suppress(_Done):
            call(chain.model, batch)
    except Exception:  # whatever the model makes of outputs that it does not know
        return False
    return bool(found) and _same(seen.inputs[block], found[0])


def _hollow(output: Any) -> Any:
    """Zeros in its place, without memory."""
    return tree_map_only(Tensor, lambda t: t.new_zeros(()).expand(t.shape), output)


def _fingerprint(given: Any) -> list[Tensor]:
    tensors = [t for t in tree_leaves(given) if isinstance(t, Tensor)]
    numbers = [t.detach().double().nan_to_num().flatten() for t in tensors]
    return [torch.stack([n.sum(), n.abs().sum(), (n[1:] * n[:-1]).sum()]).cpu() for n in numbers]


def _same(wanted: list[Tensor], found: list[Tensor]) -> bool:
    return len(wanted) == len(found) and all(
        bool((w - f).abs().max() <= CLOSE * w[1].clamp(min=1e-30))
        for w, f in zip(wanted, found, strict=True)
    )
