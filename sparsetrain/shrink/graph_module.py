"""The recorded operations of a model as a module of their own, in a smaller network's sizes.

For models whose code mentions a width that was removed, as a number in a `view` or as
`width // heads` of another layer. What ran is what the module runs: of a branch on data, the
sample's side. Evaluation and training mode are recorded each; what only training does (dropout,
other outputs, statistics) is done in `.train()`. There the mode of the whole decides, but that a
norm keeps to its own, and that a part which was in evaluation mode when the rest was not stays so.
Where training mode cannot be recorded (it needs labels; chance decides what runs), a warning says
so, and evaluation mode's operations are run in both, norms alone in two modes. Numbers that hang on
the sizes of the inputs are computed from these (shrink/growth.py). What hangs on other data is what
it was for the sample, and a warning names the line.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from sparsetrain.shrink.drawing import Run, trained
from sparsetrain.shrink.graph_builder import GraphBuilder
from sparsetrain.shrink.growth import grown_records
from sparsetrain.shrink.program import Program, data_steps
from sparsetrain.shrink.record import record, twice
from sparsetrain.shrink.small import Stays
from sparsetrain.shrink.trace import Walk, follow

# Of what is returned, in evaluation and in training mode: attributes of the graph module.
STRUCTURES = ("structure_of_output", "structure_of_training_output")


@dataclass(frozen=True)
class Modes:
    """A model's calls in evaluation and in training mode; None where that one is not known."""

    evaluation: Run
    training: Run | None
    grown: tuple[list[Program], list[Program]]  # the same of each for other sizes of the inputs

    @staticmethod
    def of(model: nn.Module, sample: Any, walk: Walk) -> "Modes":
        evaluation = _several(model, Run(sample, walk))
        _warn_of_data(evaluation.walk.program)
        training = None
        try:
            training = trained(model, evaluation.sample, walk)
        except ValueError as problem:
            reason = str(problem).removeprefix("plan: ")
            _warn(
                "in training mode the graph runs the operations of evaluation mode,"
                f" without dropout, and norms alone train: {reason}"
            )
        options = {"outputs": walk.program.wanted}
        grown = _grown(model, evaluation, options)
        more = options | {"training": True, "dropout": True}
        return Modes(evaluation, training, (grown, _grown(model, training, more)))


def _several(model: nn.Module, run: Run) -> Run:
    """The call with two samples, where it was of one: there a `view` may stand for a copy."""
    first = next((v for v in run.walk.program.inputs if v.shape), None)
    if first is None or first.shape[0] != 1:
        return run
    try:
        sample = twice(run.sample)
        program = record(model, sample, outputs=run.walk.program.wanted)
    except (ValueError, RuntimeError):
        return run
    return Run(sample, follow(program, run.walk.heads))


def _grown(model: nn.Module, run: Run | None, options: dict[str, Any]) -> list[Program]:
    return [] if run is None else grown_records(model, run.sample, run.walk.program, **options)


def _warn_of_data(program: Program) -> None:
    """Say which steps tell Python what their tensors hold, or how many entries they found."""
    lines = dict.fromkeys(str(step) for step in data_steps(program))
    if lines:
        _warn(
            f"what {', '.join(lines)} found in the sample's data is fixed in the graph:"
            " a branch takes the sample's side, a length is the sample's"
        )


def _warn(what: str) -> None:
    warnings.warn(f"as_graph: {what}", stacklevel=7)


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
    calls = zip((modes.evaluation, modes.training), modes.grown, STRUCTURES, strict=True)
    graph, trains = (
        None if call is None else GraphBuilder(model, root, call, stays, (others, name)).build()
        for call, others, name in calls
    )
    assert graph is not None
    module = TwoModes(root, graph, type(model).__name__)
    module.training_graph = trains
    for held in (module._parameters, module._buffers, module._modules):
        held.clear()  # only what the graph mentions, in the order of use
    _share(root, module)
    for name in STRUCTURES:
        setattr(module, name, getattr(root, name, None))
    module.recompile()
    return module


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
