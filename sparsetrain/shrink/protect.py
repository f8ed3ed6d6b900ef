"""What keeps all its channels because its user says so.

A module keeps the channels that it makes; a parameter or buffer all its entries; a group that a
plan prints all its channels. Each is given as it is, or by its bare name (support/wrapped.py), or
several by a pattern: "encoder.*.norm?", "*bias". A pattern that modules match is one of modules.
"""

from collections.abc import Collection
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import Tensor, nn

from sparsetrain.shrink.graph import PROTECTED, Graph, Group
from sparsetrain.support.nearest import unknown
from sparsetrain.support.wrapped import SEGMENTS, bare

Protected = str | nn.Module | Tensor
Protect = Protected | Collection[Protected]


def protected(graph: Graph, model: nn.Module, protect: Protect) -> Graph:
    """The same graph, with the groups fixed that hold what is protected.

    Raises:
        ValueError: the model has nothing of this name, or not this module or tensor.
        TypeError: something else is given.
    """
    one = isinstance(protect, str | nn.Module | Tensor)
    found = _Found(graph, model)
    for each in [protect] if one else protect:
        found.add(each)
    return replace(graph, groups=tuple(found.kept(group) for group in graph.groups))


class _Found:
    """Names, in the graph, of what is protected."""

    def __init__(self, graph: Graph, model: nn.Module) -> None:
        self.graph = graph
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(t): name for name, t in tensors}
        self._modules = {bare(model, n): m for n, m in model.named_modules(remove_duplicate=False)}
        every = model.named_parameters(remove_duplicate=False)
        each = [*every, *model.named_buffers(remove_duplicate=False)]
        self._tensors = {bare(model, n): t for n, t in each}
        self._groups = {group.name for group in graph.groups}
        self.makers: set[str] = set()  # tensors whose channels stay, where they make them
        self.whole: set[str] = set()  # tensors that stay as they are
        self.groups: set[str] = set()

    def add(self, given: Protected) -> None:
        """
        Raises:
            ValueError, TypeError: as in `protected`.
        """
        if isinstance(given, nn.Module):
            if all(given is not module for module in self._modules.values()):
                raise ValueError(f"protect: this {type(given).__name__} is no module of the model")
            self._add_module(given)
        elif isinstance(given, Tensor):
            if id(given) not in self._names:
                shape = list(given.shape)
                raise ValueError(f"protect: no parameter of the model is this tensor {shape}")
            self.whole.add(self._names[id(given)])
        elif isinstance(given, str):
            self._add_named(given)
        else:
            kinds = "a name, a pattern, a module or a parameter"
            raise TypeError(f"protect: need {kinds}, got {type(given).__name__}")

    def kept(self, group: Group) -> Group:
        """The group, fixed if it holds anything of these."""
        stays = group.name in self.groups or any(
            m.tensor in self.whole or (m.tensor in self.makers and not m.consumes)
            for m in group.members
        )
        return replace(group, fixed=PROTECTED) if stays and group.fixed is None else group

    def _add_named(self, name: str) -> None:
        kinds = (self._modules, self._tensors, self._groups)
        either = dict.fromkeys((name, _without_wrappers(name)))
        matching = next((m for n in either for kind in kinds if (m := _matching(n, kind))), [])
        if not matching:
            known = [each for kind in kinds for each in kind]
            raise unknown("module to protect", name, known, listed=False)
        for each in matching:
            if each in self._modules:
                self._add_module(self._modules[each])
            elif each in self._tensors:
                self.whole.add(self._names[id(self._tensors[each])])
            else:
                self.groups.add(each)

    def _add_module(self, module: nn.Module) -> None:
        self.makers |= {self._names[id(t)] for t in (*module.parameters(), *module.buffers())}
        rows = [m.weight for m in module.modules() if isinstance(m, nn.Embedding)]
        self.whole |= {self._names[id(t)] for t in rows}  # a layer may read them, if they are tied


def _matching(wanted: str, known: Collection[str]) -> list[str]:
    if wanted in known:
        return [wanted]
    pattern = any(c in wanted for c in "*?[")
    return [name for name in known if pattern and name and fnmatchcase(name, wanted)]


def _without_wrappers(name: str) -> str:
    return ".".join(segment for segment in name.split(".") if segment not in SEGMENTS)
