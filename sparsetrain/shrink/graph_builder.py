"""A recorded program as an `fx.Graph` with the sizes of a smaller network."""

import inspect
import math
import operator
from fractions import Fraction
from functools import reduce
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from sparsetrain.shrink.drawing import Run
from sparsetrain.shrink.growth import Growth, Place
from sparsetrain.shrink.program import Program, Step, Value
from sparsetrain.shrink.record import arguments, tensors_of
from sparsetrain.shrink.rewrite import rewritten
from sparsetrain.shrink.small import Small, Stays

# Norms that update statistics in training mode: the places of these, and of the mode.
NORMS = dict.fromkeys(("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"), (3, 5))


class GraphBuilder:
    """One pass over the program that appends a node or a few for every step."""

    def __init__(
        self,
        model: nn.Module,
        root: nn.Module,
        call: Run,
        stays: Stays,
        about: tuple[list[Program], str],
    ) -> None:
        self.model, self.root, self.sample = model, root, call.sample
        self.small, self.program = Small(call.walk, stays), call.walk.program
        others, self.structure = about
        self.growth = Growth(self.program, others)
        self.graph = fx.Graph()
        self.nodes: dict[Value, fx.Node] = {}
        self.sizes: dict[Place, fx.Node] = {}

    def build(self) -> fx.Graph:
        self._inputs(self.sample)
        for step in self.program.steps:
            self._step(step)
            self.growth.passed(step)
        self.graph.output(self._output())
        self.graph.eliminate_dead_code()
        return self.graph

    def _inputs(self, sample: Any) -> None:
        left = iter(self.program.inputs)
        for name, given in _named(self.model, sample).items():
            node = self.graph.placeholder(name)
            tensors = [node]
            if not isinstance(given, Tensor):
                found = self.graph.call_function(tensors_of, (node,))
                tensors = [self._item(found, i) for i in range(len(tensors_of(given)))]
            self.nodes |= {next(left): node for node in tensors}

    def _step(self, step: Step) -> None:
        op, args, kwargs = rewritten(step, self.small)
        others = self.growth.arguments(step)
        args = self._grown(step, (tuple(args), step.args), [a for a, _ in others])
        kwargs = self._grown(step, (kwargs, dict(step.kwargs)), [k for _, k in others])
        args, kwargs = tree_map_only(Value, self._node, (args, kwargs))
        args, kwargs = tree_map_only(Tensor, self._constant, (args, kwargs))
        statistics, mode = NORMS.get(op.overloadpacket.__name__, (0, 0))
        if mode and args[statistics] is not None and (not args[mode] or self._is_norm(step.module)):
            owner = f"{step.module}." if step.module else ""
            training = self.graph.get_attr(f"{owner}training")
            args = (*args[:mode], training, *args[mode + 1 :])
        node = self.graph.call_function(op, args, kwargs)
        returns = [str(r.type) for r in op._schema.returns]
        if returns == ["Tensor"]:
            self.nodes[step.outputs[0]] = node
            return
        if returns not in (["List[Tensor]"], ["Tensor"] * len(step.outputs)):
            node = self.graph.call_function(tensors_of, (node,))
        for i, value in enumerate(step.outputs):
            self.nodes[value] = self._item(node, i)

    def _output(self) -> Any:
        assert self.program.returned is not None
        leaves, structure = self.program.returned
        leaves = tree_map_only(Value, self._node, leaves)
        if _plain(structure):
            return tree_unflatten(leaves, structure)
        setattr(self.root, self.structure, structure)
        spec = self.graph.get_attr(self.structure)
        return self.graph.call_function(tree_unflatten, (leaves, spec))

    def _is_norm(self, name: str) -> bool:
        return isinstance(self.model.get_submodule(name), _NormBase)

    def _node(self, value: Value) -> fx.Node:
        if value not in self.nodes:
            if value.name is not None:
                self.nodes[value] = self.graph.get_attr(value.name)
            else:
                assert value.held is not None
                tensor = value.held
                for dim, stay in self.small.alive(value).items():
                    tensor = tensor.index_select(dim, stay.to(tensor.device))
                self.nodes[value] = self._constant(tensor)
        return self.nodes[value]

    def _constant(self, tensor: Tensor) -> fx.Node:
        name = f"_constant_{sum(1 for _ in self.root.buffers(recurse=False))}"
        self.root.register_buffer(name, tensor.clone(), persistent=False)
        return self.graph.get_attr(name)

    def _item(self, node: fx.Node, index: int) -> fx.Node:
        return self._call(operator.getitem, node, index)

    def _grown(self, step: Step, given: tuple[Any, Any], others: list[Any]) -> Any:
        """Arguments in the smaller network, from those of the whole one in all its records."""
        small, once = given
        leaves, structure = tree_flatten(small)
        each = [tree_flatten(arguments) for arguments in (once, *others)]
        if any(other != structure for _, other in each):
            return small
        found = zip(leaves, *(other for other, _ in each), strict=True)
        return tree_unflatten([self._number(step, *numbers) for numbers in found], structure)

    def _number(self, step: Step, small: Any, once: Any, *others: Any) -> Any:
        """A number of the smaller network, computed from sizes if it hangs on them."""
        if not others or isinstance(once, bool) or not isinstance(once, int | float):
            return small
        grown = self.growth.grown(step, (once, *others))
        if grown is None:
            return small
        whole = math.prod(value.shape[dim] for value, dim in grown.sizes)
        left = math.prod(self.small.size(value, dim) for value, dim in grown.sizes)
        if (small, left) != (once, whole) and (grown.more or isinstance(once, float)):
            return small
        node = reduce(self._times, [self._size(place) for place in grown.sizes])
        if isinstance(once, float):
            power = node if grown.power == 1 else self._call(operator.pow, node, grown.power)
            return self._call(operator.mul, power, grown.factor)
        factor = Fraction(grown.factor) if grown.more else Fraction(small, left)
        return self._linear(node, factor, grown.more)

    def _linear(self, node: fx.Node, factor: Fraction, more: Fraction) -> fx.Node:
        parts = math.lcm(factor.denominator, more.denominator)
        for op, number, nothing in (
            (operator.mul, int(factor * parts), 1),
            (operator.add, int(more * parts), 0),
            (operator.floordiv, parts, 1),
        ):
            node = node if number == nothing else self._call(op, node, number)
        return node

    def _times(self, a: fx.Node, b: fx.Node) -> fx.Node:
        return self._call(operator.mul, a, b)

    def _call(self, op: Any, *args: Any) -> fx.Node:
        return self.graph.call_function(op, args)

    def _size(self, place: Place) -> fx.Node:
        if place not in self.sizes:
            value, dim = place
            self.sizes[place] = self.graph.call_method("size", (self._node(value), dim))
        return self.sizes[place]


def _named(model: nn.Module, sample: Any) -> dict[str, Any]:
    """The sample's parts under the names of the model's arguments."""
    args, kwargs = arguments(sample)
    names = []
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(name)
    names += [f"input_{i}" for i in range(len(names), len(args))]
    return dict(zip(names, args, strict=False)) | kwargs


def _plain(structure: TreeSpec) -> bool:
    """Whether a node of a graph may return it: tensors in tuples, lists and dicts."""
    return structure.type in (None, tuple, list, dict) and all(map(_plain, structure.children()))
