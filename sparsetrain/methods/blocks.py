"""A model's blocks: what is calibrated together, found by how the model is built.

The entries of a list (nn.ModuleList or nn.Sequential) that are all of one class, as the layers of a
transformer or the bottlenecks of a ResNet, are a block each; where such lists are nested, the outer
one's, unless its entries hold longer lists of different lengths, as stages do. A layer outside of
all of them is a block of its own.
"""

from collections.abc import Collection, Iterator, Sequence

from torch import nn

from sparsetrain.support.nearest import unknown

LISTS = (nn.ModuleList, nn.Sequential)


def blocks_of(
    model: nn.Module, layers: Collection[nn.Module], named: str | Sequence[str] | None = None
) -> list[nn.Module]:
    """Blocks that hold all of these layers, each once.

    Args:
        named: the list whose entries are blocks, or the blocks, by dotted names; what lies outside
            is found as always.

    Raises:
        ValueError: no module has such a name.
    """
    chosen = set(_named(model, named))
    found = dict.fromkeys(_inside(model, set(layers), chosen))
    return list(found)


def _named(model: nn.Module, named: str | Sequence[str] | None) -> list[nn.Module]:
    if named is None:
        return []
    modules = dict(model.named_modules())
    names = [named] if isinstance(named, str) else named
    for name in names:
        if name not in modules:
            raise unknown("module in blocks", name, modules, listed=False)
    if isinstance(named, str):
        return list(modules[named].children())
    return [modules[name] for name in names]


def _inside(
    module: nn.Module, layers: set[nn.Module], chosen: set[nn.Module]
) -> Iterator[nn.Module]:
    if module in layers or (module in chosen and _holds(module, layers)):
        yield module
        return
    alike = [] if chosen else [c for c in _alike(module) if _holds(c, layers)]
    for child in module.children():
        if child in alike:
            yield child
        else:
            yield from _inside(child, layers, chosen)


def _alike(module: nn.Module) -> list[nn.Module]:
    """The entries of a list of blocks; none where it holds longer ones, as stages do of blocks."""
    entries = _entries(module)
    inner = [max((len(_entries(m)) for m in entry.modules()), default=0) for entry in entries]
    stages = len(set(inner)) > 1  # a mixture has as many experts in every block
    return [] if stages and max(inner) > len(entries) else entries


def _entries(module: nn.Module) -> list[nn.Module]:
    """Of a list whose entries are of one class."""
    children = list(module.children()) if isinstance(module, LISTS) else []
    kinds = {type(child) for child in children}
    return children if len(kinds) == 1 and len(children) > 1 and not kinds & set(LISTS) else []


def _holds(module: nn.Module, layers: set[nn.Module]) -> bool:
    return any(m in layers for m in module.modules())
