"""Plan a removal of channels, look at it, prove it, carry it out."""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.nearest import unknown
from sparsetrain.shrink import budget as budgets
from sparsetrain.shrink import plan_file, plan_report
from sparsetrain.shrink.apply import Attachments, Cut, cut_channels, rebuild_reducers
from sparsetrain.shrink.graph import Graph
from sparsetrain.shrink.graph_module import graph_module
from sparsetrain.shrink.latency import search
from sparsetrain.shrink.plan_report import Line
from sparsetrain.shrink.proof import Proof, expect, settled
from sparsetrain.shrink.record import record
from sparsetrain.shrink.trace import follow, trace

AS_GRAPH = "apply(as_graph=True) helps where its code mentions a width that went"
Score = Callable[[nn.Module, Graph], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Plan:
    """Which channels go. `print(plan)` shows it; nothing is changed before `apply`."""

    model: nn.Module
    sample: Any
    graph: Graph
    scores: Mapping[str, Tensor]  # group name -> `[width]` worth of each channel
    kept: Mapping[str, Tensor]  # group name -> channels that stay, `[kept]` int64, ascending
    asked: str = ""  # what the budget was, where widths do not meet it exactly

    @property
    def widths(self) -> dict[str, int]:
        """Channels that stay, by group."""
        return {name: len(kept) for name, kept in self.kept.items()}

    def share(self, what: str) -> float:
        """Share of "flops", "parameters", "channels" or "memory" that is kept, in 0-1."""
        return plan_report.share(self.graph, self.widths, what)

    def apply(
        self,
        optimizer: Optimizer | None = None,
        ema: nn.Module | None = None,
        masks: dict[str, Tensor] | None = None,
        verify: bool = True,
        as_graph: bool = False,
    ) -> nn.Module:
        """Remove the channels for real, in place, from the model and all that goes with it.

        Args:
            optimizer: holds this model's parameters; its state shrinks along.
            ema: an averaged copy of the model, or an `AveragedModel`.
            masks: parameter name -> bool mask of the parameter's shape.
            verify: prove on the sample that the outputs equal those of the masked model; if they
                do not, everything is put back.
            as_graph: return a `torch.fx.GraphModule` of the operations that ran on the sample in
                evaluation mode, for a model whose own code mentions a width that goes. It holds
                the model's parameters and buffers, the same objects under the same names.

        Returns:
            The model, or the graph module.

        Raises:
            RuntimeError: the shrunk model does not compute what the masked model computes.
        """
        attached = Attachments(optimizer, ema, masks or {})
        proof = expect(self.model, self.graph, self.kept, self.sample) if verify else None
        shrunk = self._graph_module() if as_graph else self.model
        cut = cut_channels(self.model, self.graph, self.kept, attached)
        if proof is not None:
            self._check(cut, proof, shrunk)
        rebuild_reducers(self.model)
        return shrunk

    def verify(self, as_graph: bool = False) -> float:
        """Prove the plan and leave the model as it was.

        Compares outputs in evaluation mode, and outputs and every gradient in training mode, of
        the shrunk model with those of the model that has the removed channels masked.

        Args:
            as_graph: prove what `apply(as_graph=True)` returns.

        Returns:
            The largest error, relative to the largest entry of what is compared.

        Raises:
            RuntimeError: they differ by more than rounding, or the shrunk model does not run.
        """

        def prove(sample: Any) -> float:
            again = sample is not self.sample
            walk = follow(record(self.model, sample)) if again else self.graph.walk
            graph = replace(self.graph, walk=walk)
            return replace(self, sample=sample, graph=graph)._prove(as_graph)

        return settled(prove, self.model, self.sample)

    def _prove(self, as_graph: bool) -> float:
        proof = expect(self.model, self.graph, self.kept, self.sample, training=True)
        shrunk = self._graph_module() if as_graph else self.model
        cut = cut_channels(self.model, self.graph, self.kept, Attachments())
        error = self._check(cut, proof, shrunk)
        cut.undo()
        return error

    def _graph_module(self) -> nn.Module:
        return graph_module(self.model, self.sample, self.graph, self.kept)

    def _check(self, cut: Cut, proof: Proof, shrunk: nn.Module) -> float:
        try:
            return proof.check(shrunk)
        except BaseException as problem:
            cut.undo()
            if isinstance(problem, RuntimeError) and shrunk is self.model:
                raise type(problem)(f"{problem}; {AS_GRAPH}") from problem
            raise

    def __str__(self) -> str:
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(self.table())
        return console.export_text().rstrip()

    def table(self) -> Table:
        """One row a group: what goes, what stays, what cannot go and why."""
        return plan_report.table(self.graph, self.widths, self.asked)

    def report(self) -> list[Line]:
        """What happens to every layer: pruned, protected, or not prunable and why."""
        return plan_report.lines(self.model, self.graph, self.widths)

    def plot(self) -> Figure:
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
        return replace(self, kept=changed, asked="")

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; `load_plan` reads it."""
        plan_file.write(Path(path), type(self.model).__name__, self.kept, self.graph)


def load_plan(
    path: str | Path, model: nn.Module, sample: Any, *, graph: Graph | None = None
) -> Plan:
    """The plan that `Plan.save` wrote, for a model as it was then; edited by hand, if you like.

    Raises:
        ValueError: the file is no plan, or not one of this model.
    """
    graph = trace(model, sample) if graph is None else graph
    kept = plan_file.read(Path(path), graph)
    scores = {name: torch.zeros(graph[name].width) for name in kept}
    for name, stay in kept.items():
        scores[name][stay] = 1
    return Plan(model, sample, graph, scores, kept)


def plan(
    model: nn.Module,
    sample: Any,
    score: Score,
    *,
    flops: float | None = None,
    parameters: float | None = None,
    channels: float | None = None,
    memory: float | None = None,
    latency: float | None = None,
    widths: Mapping[str, float] | None = None,
    round_to: int | None = None,
    min_channels: int = 1,
    protect: Collection[str] = (),
    frozen: str = "prune",
    graph: Graph | None = None,
) -> Plan:
    """Choose which channels of `model` go so that at most a given share of its cost stays.

    Args:
        model: any module that `torch.export` can trace; left as it was.
        sample: one input of the model, or a tuple or dict of them.
        score: worth of every channel, such as `sparsetrain.scores.ThreeSP(loss_fn, batch)`.
        flops, parameters, channels, memory: the share to keep, in (0, 1]; exactly one of them, or
        latency: the share of the time of a call on the sample, measured on this device, or
        widths: channels to keep, by group, rounded to the nearest width that is allowed; groups
            that are not named keep all.
        round_to: widths are multiples of this; by default what the machine runs well: 16 on CPUs
            with AVX-512, else 8. Below 8, beware of channels_last: `config.check_layout`.
        min_channels: no group gets narrower than this.
        protect: names of modules that keep all their channels.
        frozen: "prune" or "protect" layers whose parameters require no gradient.
        graph: what `trace(model, sample)` returns, where it is at hand or has other `heads`.

    Raises:
        ValueError: no or several budgets, a share outside (0, 1], nothing to prune, an unknown
            name in `protect` or `widths`, or a budget that would empty a layer.
    """
    shares = {"flops": flops, "parameters": parameters, "channels": channels, "memory": memory}
    what, share = budget_of("plan", shares | {"latency": latency, "widths": widths})
    graph = protected(trace(model, sample) if graph is None else graph, model, protect)
    graph = _with_frozen(graph, model, frozen)
    if not graph.free:
        raise ValueError(f"plan: no channel of {type(model).__name__} can go: {_reasons(graph)}")
    unit = default_round_to(model) if round_to is None else round_to
    if unit < 1 or min_channels < 1:
        raise ValueError(f"plan: need round_to, min_channels >= 1, got {unit}, {min_channels}")
    limits = budgets.Limits(unit, min_channels)
    if widths is not None:
        allowed = budgets.allowed(graph, widths, limits)
        scores = _checked(score(model, graph), graph)
        return Plan(model, sample, graph, scores, budgets.best(graph, scores, allowed))
    if latency is not None:
        scores = _checked(score(model, graph), graph)
        found = search(model, sample, graph, scores, limits, latency)
        asked = f"asked {100 * latency:g}% of the latency, measured {100 * found.share:.1f}%"
        return Plan(model, sample, graph, scores, found.kept, asked)
    cost, whole = budgets.COSTS[what], budgets.COSTS[what](graph, {})
    least = cost(graph, budgets.narrowest(graph, limits)) / whole
    if least > share:
        hint = "; a smaller round_to reaches further" if unit > 1 else ""
        raise ValueError(
            f"plan: {what}={share:g} would empty a layer: with at least"
            f" {max(unit, min_channels)} channels in each, {least:.3f} remain{hint}"
        )
    scores = _checked(score(model, graph), graph)
    at_most = share * whole * (1 + 1e-12)  # 0.29 * 100 is below 29
    kept = budgets.kept_channels(graph, scores, cost, at_most, limits)
    reached = cost(graph, {name: len(stay) for name, stay in kept.items()}) / whole
    met = f"asked {100 * share:g}% of the {what}, the nearest below is {100 * reached:.2f}%"
    asked = "" if reached == share else met
    return Plan(model, sample, graph, scores, kept, asked)


def default_round_to(model: nn.Module) -> int:
    """Width step that the model's device runs without waste: SIMD lanes or tensor-core tiles."""
    parameter = next(model.parameters(), None)
    on_cpu = parameter is None or parameter.device.type == "cpu"
    return 16 if on_cpu and "AVX512" in torch.backends.cpu.get_cpu_capability() else 8


def budget_of(who: str, shares: Mapping[str, Any]) -> tuple[str, Any]:
    """The one budget that is given, checked."""
    given = {name: share for name, share in shares.items() if share is not None}
    if len(given) != 1:
        raise ValueError(f"{who}: need one of {', '.join(shares)}, got {list(given) or 'none'}")
    [(what, share)] = given.items()
    if not isinstance(share, Mapping) and not 0 < share <= 1:
        raise ValueError(f"{who}: {what} is the share to keep, in (0, 1], got {share}")
    return what, share


def protected(graph: Graph, model: nn.Module, protect: Collection[str]) -> Graph:
    """The same graph, with the groups fixed that the named modules produce."""
    modules = dict(model.named_modules())
    for name in protect:
        if name not in modules:
            raise unknown("module to protect", name, modules, listed=False)
    return graph.fixing(
        lambda member: any(f"{member.tensor}.".startswith(f"{name}.") for name in protect),
        "it is protected",
    )


def _with_frozen(graph: Graph, model: nn.Module, frozen: str) -> Graph:
    if frozen not in ("prune", "protect"):
        raise ValueError(f'plan: frozen must be "prune" or "protect", got {frozen!r}')
    if frozen == "prune":
        return graph
    still = {n for n, p in model.named_parameters() if not p.requires_grad}
    return graph.fixing(lambda member: member.tensor in still, "it is frozen")


def _reasons(graph: Graph) -> str:
    reasons = list(dict.fromkeys(g.fixed for g in graph.groups if g.fixed))
    return "; ".join(reasons[:3]) or "it has no layer with channels"


def _checked(scores: Mapping[str, Tensor], graph: Graph) -> dict[str, Tensor]:
    checked = {}
    for group in graph.free:
        score = scores[group.name].detach().cpu()
        if score.shape != (group.width,):
            raise ValueError(f"plan: {group.name} has {group.width} channels, {score.shape} scores")
        if score.isnan().any():
            raise ValueError(
                f"plan: {int(score.isnan().sum())} channels of {group.name} score NaN;"
                " is the loss finite on this batch?"
            )
        checked[group.name] = score
    return checked
