"""A removal of channels: look at it, change it, prove it, carry it out."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from sparsetrain.shrink import budget as budgets
from sparsetrain.shrink import configs, plan_file, plan_report
from sparsetrain.shrink.apply import Cut, cut_channels, entries
from sparsetrain.shrink.attached import Attachments, Together
from sparsetrain.shrink.changes import remember
from sparsetrain.shrink.difference import located, ran
from sparsetrain.shrink.drawing import Run
from sparsetrain.shrink.graph import Graph
from sparsetrain.shrink.graph_module import Modes, graph_module
from sparsetrain.shrink.outputs import Outputs
from sparsetrain.shrink.plan_report import Line
from sparsetrain.shrink.pretrained import Described
from sparsetrain.shrink.proof import Proof, expect, settled
from sparsetrain.shrink.record import in_training, record
from sparsetrain.shrink.reducers import rebuild_reducers
from sparsetrain.shrink.small import Small, Stays
from sparsetrain.shrink.temperature import keep_temperatures
from sparsetrain.shrink.trace import follow, trace
from sparsetrain.shrink.unproved import Differs, Unproved
from sparsetrain.support.nearest import unknown
from sparsetrain.support.terminal import PlainConsole
from sparsetrain.support.wrapped import unwrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plan:
    """Which channels go. `print(plan)` shows it; nothing is changed before `apply`."""

    model: nn.Module
    sample: Any
    graph: Graph
    scores: Mapping[str, Tensor]  # group name -> `[width]` worth of each channel
    kept: Mapping[str, Tensor]  # group name -> channels that stay, `[kept]` int64, ascending
    asked: str = ""  # what the budget was, where widths do not meet it exactly
    basis: Mapping[str, Any] = field(default_factory=dict)  # what it hangs on, as JSON has it

    @property
    def widths(self) -> dict[str, int]:
        """Channels that stay, by group."""
        return {name: len(kept) for name, kept in self.kept.items()}

    def share(self, what: str) -> float:
        """Share of "flops", "parameters", "channels" or "memory" that is kept, in 0-1."""
        return plan_report.share(self.graph, self.widths, what)

    def apply(
        self,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        ema: nn.Module | None = None,
        masks: dict[str, Tensor] | None = None,
        verify: bool = True,
        as_graph: bool | str = False,
    ) -> nn.Module:
        """Remove the channels for real, in place, from the model and all that goes with it.

        Args:
            optimizer: holds this model's parameters; its state shrinks along. Several are a list.
            ema: an averaged copy of the model, or an `AveragedModel`.
            masks: parameter name -> bool mask of the parameter's shape.
            verify: prove on the sample that the outputs equal those of the masked model; if they
                do not, everything is put back. Without it nothing shows a model whose code did not
                follow its widths: it may fail at its next call, or compute something else. Where
                lengths or branches hang on the data there may be nothing to compare, and no other
                way; the message says so.
            as_graph: return a `torch.fx.GraphModule` of the operations that ran on the sample, for
                a model whose own code mentions a width that goes: in evaluation mode those of that
                mode, in training mode those of training, dropout among them. It holds the model's
                parameters and buffers, the same objects under the same names, and runs at other
                sizes of its inputs where the model runs the same operations; what hangs on other
                data is fixed, with a warning. A model that cannot be recorded in training mode gets
                a warning that says why: there norms alone train. "auto": only if in place fails.

        Returns:
            The model, or the graph module.

        Raises:
            Unproved: the shrunk model does not compute what the masked model computes; a
                RuntimeError that names the module and line where the two begin to differ.
            ValueError: the model is no longer what was planned, what is attached to it is not its
                own, or an optimizer keeps state that cannot shrink along.
        """
        if as_graph == "auto":
            if not verify:
                raise ValueError('apply: as_graph="auto" chooses by the proof, got verify=False')
            try:
                return self.apply(optimizer, ema, masks)
            except Unproved:
                return self.apply(optimizer, ema, masks, as_graph=True)
        if isinstance(as_graph, str):
            raise ValueError(f'apply: as_graph is True, False or "auto", got {as_graph!r}')
        together = Together(self.model, self.graph, Attachments(optimizer, ema, masks or {}))
        if verify and as_graph:  # the graph of training mode is made here, so it is proved here
            self.verify(as_graph=True)
        modes = self._modes if as_graph else None
        proof = self._expect() if verify and not as_graph else None
        about = plan_file.about(self.model, self.sample, self.kept, self.graph, as_graph)
        parts = [] if as_graph else configs.described(self.model)
        try:
            shrunk, _, _ = self._cut(together, proof, modes, parts)
        except Differs:
            if not self._runs_as_planned():
                raise
            self.verify(training=False)  # double precision tells whether it is rounding
            shrunk, _, _ = self._cut(together, None, modes, parts)
        remember(unwrapped(shrunk)[0], (), **about)
        rebuild_reducers(self.model)
        return shrunk

    def verify(self, as_graph: bool = False, training: bool = True) -> float:
        """Prove the plan and leave the model as it was.

        Compares outputs of the shrunk model with those of the model that has the removed channels
        masked, in evaluation mode, and with `training` also outputs and all gradients in training
        mode, where nothing is dropped; with `as_graph` those of what `apply(as_graph=True)`
        returns.

        Returns:
            The largest error, relative to the largest entry of what is compared.

        Raises:
            Unproved: they differ by more than rounding, or the shrunk model does not run.
        """

        def prove(sample: Any) -> float:
            if sample is self.sample:
                return self._prove(as_graph, training)
            program = record(self.model, sample, outputs=self._outputs)
            walk = follow(program, self.graph.walk.heads)
            graph = replace(self.graph, walk=walk)
            return replace(self, sample=sample, graph=graph)._prove(as_graph, training)

        return settled(prove, self.model, self.sample)

    @cached_property
    def _modes(self) -> Modes:
        """The calls that a graph module is made of; they hang on the whole model alone."""
        return Modes.of(self.model, self.sample, self.graph.walk)

    @property
    def _outputs(self) -> Outputs:
        return self.graph.walk.program.wanted

    def _prove(self, as_graph: bool, training: bool) -> float:
        modes = self._modes if as_graph else None
        trains = None
        if training:
            trains = modes.training or self._trains(_NormBase) if modes else self._trains()
        together = Together(self.model, self.graph)
        _, cut, error = self._cut(together, self._expect(trains, modes), modes, trains=trains)
        cut.undo()
        return error

    def _runs_as_planned(self) -> bool:
        """Whether the model runs the operations that were recorded."""
        program = record(self.model, self.sample, outputs=self._outputs)
        return [s.op for s in program.steps] == [s.op for s in self.graph.walk.program.steps]

    def _trains(self, only: type[nn.Module] = nn.Module) -> Run:
        sample, program = in_training(self.model, self.sample, only=only, outputs=self._outputs)
        return Run(sample, follow(program, self.graph.walk.heads))

    def _expect(self, trains: Run | None = None, modes: Modes | None = None) -> Proof:
        live = modes is None
        return expect(self.model, self.graph.walk, self._stays, self.sample, trains, live)

    @property
    def _stays(self) -> Stays:
        return entries(self.graph, self.kept)

    def _cut(
        self,
        together: Together,
        proof: Proof | None,
        modes: Modes | None,
        parts: Sequence[Described] = (),
        trains: Run | None = None,
    ) -> tuple[nn.Module, Cut, float]:
        shrunk = self.model
        if modes is not None:
            shrunk = graph_module(self.model, modes, self._stays)
        cut = cut_channels(together, self.kept)
        try:
            take_back = configs.say(cut, self.model, parts, proof is not None)
            try:
                return shrunk, cut, self._proved(together, cut, proof, shrunk)
            except RuntimeError:
                if take_back is None:
                    raise
            take_back()  # its own code reads the config, and means other numbers
            return shrunk, cut, self._proved(together, cut, proof, shrunk)
        except Unproved as problem:
            run = Run(self.sample, self.graph.walk)
            run = trains if problem.training and trains else run
            found = [] if modes else ran(shrunk, run.sample, problem.training)
            cut.undo()
            raise located(problem, self.model, run, self._stays, found) from problem.__cause__
        except BaseException:
            cut.undo()
            raise

    def _proved(
        self, together: Together, cut: Cut, proof: Proof | None, shrunk: nn.Module
    ) -> float:
        cut.unmultiply()
        if shrunk is self.model:  # a graph module knows each scale
            small = Small(self.graph.walk, self._stays)
            keep_temperatures(cut, together, small, self.sample)
        return 0.0 if proof is None else proof.check(shrunk, cut.factors)

    def __str__(self) -> str:
        console = PlainConsole(width=100, record=True, file=io.StringIO())
        console.print(self.table())
        return console.export_text().rstrip()

    def table(self) -> Table:
        """One row a group: what goes, what stays, what cannot go and why."""
        return plan_report.table(self.graph, self.widths, self.asked, self.basis)

    def report(self) -> list[Line]:
        """What happens to every layer: pruned, protected, or not prunable and why."""
        relaxed = self.basis.get("relaxed", {})
        return plan_report.lines(self.model, self.graph, self.widths, relaxed)

    def plot(self) -> "Figure":
        """A picture of what is kept in each group; `plan.plot().savefig(path)`."""
        return plan_report.picture(self.graph, self.widths)

    def keeping(self, kept: Mapping[str, int | Sequence[int] | Tensor]) -> "Plan":
        """The same plan with other channels in some groups.

        Args:
            kept: group name -> how many channels stay (the best by score), or their numbers.

        Raises:
            ValueError: an unknown group, or channels that it does not have.
        """
        changed = dict(self.kept)
        for name, stay in kept.items():
            if name not in changed:
                raise unknown("group of channels that may go", name, changed, listed=False)
            group = self.graph[name]
            if isinstance(stay, int):
                if not 1 <= stay <= group.width:
                    raise ValueError(f"plan: {name} keeps 1 to {group.width} channels, got {stay}")
                stay = budgets.best_of(self.scores[name], stay)
            changed[name] = plan_file.checked(group, stay)
        return replace(self, kept=changed, asked="", basis={})

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; `load_plan` reads it."""
        plan_file.write(Path(path), self.model, self.kept, self.graph, self.basis)


def load_plan(
    path: str | Path,
    model: nn.Module,
    sample: Any,
    *,
    graph: Graph | None = None,
    outputs: Outputs = None,
) -> Plan:
    """The plan that `Plan.save` wrote, for a model as it was then; edited by hand, if you like.

    Args:
        graph, outputs: as in `plan`.

    Raises:
        ValueError: the file is no plan, or not one of this model.
    """
    graph = trace(model, sample, outputs=outputs) if graph is None else graph
    kept, basis = plan_file.read(Path(path), model, graph)
    scores = {name: torch.zeros(graph[name].width) for name in kept}
    for name, stay in kept.items():
        scores[name][stay] = 1
    return Plan(model, sample, graph, scores, kept, basis=basis)
