"""The recorded operations of a model as a module of their own, in a smaller network's sizes.

For models whose code mentions a width that was removed, as a number in a `view` or as
`width // heads` of another layer. What ran is what the module runs: of a branch on data, the
sample's side. Evaluation and training mode are recorded each; what only training does (dropout,
other outputs, statistics) is done in `.train()`. There the mode of the whole decides, but that a
norm keeps to its own, and that a part which was in evaluation mode when the rest was not stays so.
Where training mode cannot be recorded (it needs labels; chance decides what runs), a warning says
so, and evaluation mode's operations are run in both, norms alone in two modes. A number that grows
with the batch is found by recording a sample of twice the batch, and is computed from the input's
size.
"""

import copy
import inspect
import operator
import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from sparsetrain.shrink.drawing import Run, trained
from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.record import arguments, record, tensors_of, twice
from sparsetrain.shrink.rewrite import rewritten
from sparsetrain.shrink.small import Small, Stays
from sparsetrain.shrink.trace import Walk

# Norms that update statistics in training mode: the places of these, and of the mode.
NORMS = dict.fromkeys(("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"), (3, 5))
# Of what is returned, in evaluation and in training mode: attributes of the graph module.
STRUCTURES = ("structure_of_output", "structure_of_training_output")


@dataclass(frozen=True)
class Modes:
    """A model's calls in evaluation and in training mode; None where that one is not known."""

    evaluation: Run
    training: Run | None
    grown: tuple[list[Step] | None, list[Step] | None]  # the steps of each for twice the batch

    @staticmethod
    def of(model: nn.Module, sample: Any, walk: Walk) -> "Modes":
        training = None
        try:
            training = trained(model, sample, walk)
        except ValueError as problem:
            reason = str(problem).removeprefix("plan: ")
            warnings.warn(
                "as_graph: in training mode the graph runs the operations of evaluation mode,"
                f" without dropout, and norms alone train: {reason}",
                stacklevel=6,
            )
        calls = (Run(sample, walk), training)
        grown = [_doubled(model, call, bool(mode)) for mode, call in enumerate(calls)]
        return Modes(*calls, (grown[0], grown[1]))


class TwoModes(fx.GraphModule):
    """Runs `graph` in evaluation mode and `training_graph`, if there is one, in training mode."""

    training_graph: fx.Graph | None = None

    def recompile(self) -> Any:
        code = super().recompile()
        if self.training_graph is not None:
            evaluates = type(self).forward
            trains = type(fx.GraphModule(self, self.training_graph)).forward

            def forward(self, *args: Any, **kwargs: Any) -> Any:
                return (trains if self.training else evaluates)(self, *args, **kwargs)

            type(self).forward = forward
        return code

    def __deepcopy__(self, memo: dict[int, Any]) -> "TwoModes":
        new = memo[id(self)] = type(self).__new__(type(self))
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        new.graph = new._graph  # compiles it
        return new

    def __reduce__(self) -> Any:
        raise TypeError("a graph module of two modes cannot be pickled; save its state_dict")


def graph_module(model: nn.Module, modes: Modes, stays: Stays) -> TwoModes:
    """A module that runs the recorded programs with what stays, on the model's own tensors.

    The model is still whole: once these channels are cut from its tensors, the module runs.
    """
    root = nn.Module()
    _share(model, root)
    graph = _Builder(model, root, modes.evaluation, stays, modes.grown[0]).build()
    module = TwoModes(root, graph, type(model).__name__)
    if modes.training is not None:
        module.training_graph = _Builder(
            model, root, modes.training, stays, modes.grown[1], training=True
        ).build()
    for held in (module._parameters, module._buffers, module._modules):
        held.clear()  # only what the graph mentions, in the order of use
    _share(root, module)
    for name in STRUCTURES:
        setattr(module, name, getattr(root, name, None))
    module.recompile()
    return module


def _doubled(model: nn.Module, call: Run | None, training: bool) -> list[Step] | None:
    """The steps for twice the batch, where they are the same operations."""
    if call is None:
        return None
    try:
        steps = record(
            model,
            twice(call.sample),
            training,
            dropout=training,
            outputs=call.walk.program.wanted,
        ).steps
    except ValueError:
        return None
    return steps if [s.op for s in steps] == [s.op for s in call.walk.program.steps] else None


class _Builder:
    """One pass over the program that appends a node or a few for every step."""

    def __init__(
        self,
        model: nn.Module,
        root: nn.Module,
        call: Run,
        stays: Stays,
        grown: list[Step] | None,
        training: bool = False,
    ) -> None:
        self.model, self.root, self.sample = model, root, call.sample
        self.small, self.program = Small(call.walk, stays), call.walk.program
        self.structure = STRUCTURES[training]
        self.grown = grown
        self.graph = fx.Graph()
        self.nodes: dict[Value, fx.Node] = {}
        self.batch: tuple[fx.Node, int] | None = None  # the first input's size, and what it was

    def build(self) -> fx.Graph:
        self._inputs(self.sample)
        for number, step in enumerate(self.program.steps):
            self._step(step, self.grown[number] if self.grown else None)
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
        first = next((v for v in self.program.inputs if v.shape), None)
        if first is not None:
            size = self.graph.call_method("size", (self.nodes[first], 0))
            self.batch = size, first.shape[0]

    def _step(self, step: Step, grown: Step | None) -> None:
        op, args, kwargs = rewritten(step, self.small)
        if grown is not None:
            args = self._scaled(tuple(args), step.args, grown.args)
            kwargs = self._scaled(kwargs, dict(step.kwargs), dict(grown.kwargs))
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
        return self.graph.call_function(operator.getitem, (node, index))

    def _scaled(self, small: Any, once: Any, twice: Any) -> Any:
        """Arguments in the smaller network, from those of the whole one with one batch and two."""
        leaves, structure = tree_flatten(small)
        each = [tree_flatten(arguments) for arguments in (once, twice)]
        if any(other != structure for _, other in each):
            return small
        found = zip(leaves, *(other for other, _ in each), strict=True)
        return tree_unflatten([self._grows(*three) for three in found], structure)

    def _grows(self, small: Any, once: Any, twice: Any) -> Any:
        """A number `slope * batch + fixed`, found from the recorded batch and twice it."""
        fixed = 2 * once - twice if type(once) is type(twice) is int else once
        if self.batch is None or fixed == once or (small != once and fixed):
            return small
        node, batch = self.batch
        slope, rest = divmod(small - fixed, batch)
        if slope != 1 or rest:
            node = self.graph.call_function(operator.mul, (node, small - fixed if rest else slope))
        if rest:
            node = self.graph.call_function(operator.floordiv, (node, batch))
        return self.graph.call_function(operator.add, (node, fixed)) if fixed else node


def _named(model: nn.Module, sample: Any) -> dict[str, Any]:
    """The sample's parts under the names of the model's arguments."""
    args, kwargs = arguments(sample)
    names = []
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(name)
    names += [f"input_{i}" for i in range(len(names), len(args))]
    return dict(zip(names, args, strict=False)) | kwargs


def _share(model: nn.Module, holder: nn.Module) -> None:
    """Give `holder` the model's own parameters, buffers and modes, under the same names."""
    for name, module in model.named_modules(remove_duplicate=False):
        own = holder
        for part in name.split(".") if name else ():
            if part not in own._modules:
                own.add_module(part, nn.Module())
            own = own.get_submodule(part)
        own.training = module.training
        for key, parameter in module._parameters.items():
            own.register_parameter(key, parameter)
        for key, buffer in module._buffers.items():
            lasting = key not in module._non_persistent_buffers_set
            own.register_buffer(key, buffer, persistent=lasting)


def _plain(structure: TreeSpec) -> bool:
    """Whether a node of a graph may return it: tensors in tuples, lists and dicts."""
    return structure.type in (None, tuple, list, dict) and all(map(_plain, structure.children()))
