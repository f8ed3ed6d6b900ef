"""Choose which channels go, under a budget."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from sparsetrain.shrink import budget as budgets
from sparsetrain.shrink.graph import Graph
from sparsetrain.shrink.knapsack import search
from sparsetrain.shrink.outputs import Outputs
from sparsetrain.shrink.plan import Plan
from sparsetrain.shrink.protect import Protect, protected
from sparsetrain.shrink.rounding import MACHINE, Limits, RoundTo, resolved
from sparsetrain.shrink.trace import trace
from sparsetrain.support.machine import machine
from sparsetrain.support.nearest import unknown

Score = Callable[[nn.Module, Graph], Mapping[str, Tensor]]


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
    allocation: str = "global",
    round_to: RoundTo = None,
    min_channels: int = 1,
    protect: Protect = (),
    frozen: str = "prune",
    outputs: Outputs = None,
    graph: Graph | None = None,
) -> Plan:
    """Choose which channels of `model` go so that at most a given share of its cost stays.

    Args:
        model: any module that runs on the sample; left as it was.
        sample: one input of the model, or a tuple or dict of them.
        score: worth of every channel, such as `sparsetrain.scores.ThreeSP(loss_fn, batch)`.
        flops, parameters, channels, memory: the share to keep, in (0, 1]; exactly one of them, or
        latency: the share of the time of a call on the sample, measured on this device, or
        widths: channels to keep, by group, rounded to the nearest width that is allowed; groups
            that are not named keep all.
        allocation: "global", all channels compete by score, or "uniform", every group keeps one
            share of its channels, its best by score.
        round_to: widths are multiples of this, by default of 8; "machine" asks for what this one
            runs well: 16 on CPUs with AVX-512, else 8. Finer steps are taken where a group is
            narrower than one, and where the budget is out of reach by rounding alone; the plan's
            table and `Plan.basis` say where, and a warning does if `round_to` was given.
        min_channels: no group gets narrower than this.
        protect: modules that keep all the channels that they make, and parameters that stay whole;
            given as such, by bare name, or by patterns: "encoder.*.norm?".
        frozen: "prune" or "protect" layers whose parameters require no gradient.
        outputs: which of the model's results matter. By default all do, and keep their channels;
            what is not chosen may lose some. A key, place or attribute of what it returns, such as
            "logits", 0 or "encoder.last_hidden_state", a list of these, or a function of it. The
            proof compares what is chosen. With [] none matters, and what is left is compared.
        graph: what `trace(model, sample)` returns, where it is at hand or has other `heads`; which
            outputs matter is then said there.

    Raises:
        ValueError: no or several budgets, a share outside (0, 1], nothing to prune, an unknown
            name in `protect` or `widths`, or a budget that would empty a layer.

    Equal arguments give equal plans on every machine, but for `latency` and `round_to="machine"`.
    """
    shares = {"flops": flops, "parameters": parameters, "channels": channels, "memory": memory}
    what, share = budget_of("plan", shares | {"latency": latency, "widths": widths})
    if graph is not None and outputs is not None:
        raise ValueError("plan: a graph knows which outputs matter; give them to trace instead")
    graph = trace(model, sample, outputs=outputs) if graph is None else graph
    graph = protected(graph, model, protect)
    graph = _with_frozen(graph, model, frozen)
    if not graph.free:
        raise ValueError(f"plan: no channel of {type(model).__name__} can go: {_reasons(graph)}")
    if allocation not in budgets.ALLOCATIONS:
        raise unknown("allocation of channels", allocation, budgets.ALLOCATIONS)
    limits = _limits(model, round_to, min_channels)
    asked = Asked(model, sample, graph, score, limits, allocation == "uniform")
    choose = {"widths": _to_widths, "latency": _to_latency}.get(what, _to_cost)
    made, used = choose(asked, what, share)
    said = {n: float(w) for n, w in share.items()} if what == "widths" else float(share)
    basis = {what: said, **made.basis, "allocation": allocation, "round_to": used.round_to}
    basis |= {"min_channels": min_channels, **_relaxed(made, used, round_to)}
    if what == "latency" or round_to == MACHINE:
        basis["machine"] = machine(next(model.parameters()).device.type)
    return replace(made, basis=basis)


@dataclass(frozen=True)
class Asked:
    """What a plan is made of, but for its budget."""

    model: nn.Module
    sample: Any
    graph: Graph
    score: Score
    limits: Limits
    uniform: bool

    def scores(self) -> dict[str, Tensor]:
        return _checked(self.score(self.model, self.graph), self.graph)


def _limits(model: nn.Module, round_to: RoundTo, min_channels: int) -> Limits:
    unit = resolved(round_to, model)
    if unit < 1 or min_channels < 1:
        raise ValueError(f"plan: need round_to, min_channels >= 1, got {unit}, {min_channels}")
    return Limits(unit, min_channels)


def _relaxed(made: Plan, used: Limits, round_to: RoundTo) -> dict[str, dict[str, int]]:
    """Which groups' widths are no multiples of the rounding; a warning where it was asked for."""
    relaxed = used.relaxed(made.graph, made.widths)
    if relaxed and round_to is not None:
        each = ", ".join(f"{step} in {name}" for name, step in relaxed.items())
        warnings.warn(
            f"plan: widths cannot all be multiples of round_to={used.round_to}; steps are {each}",
            stacklevel=3,
        )
    return {"relaxed": relaxed} if relaxed else {}


def _to_widths(asked: Asked, what: str, widths: Mapping[str, float]) -> tuple[Plan, Limits]:
    graph = asked.graph
    allowed = budgets.allowed(graph, widths, asked.limits)
    scores = asked.scores()
    kept = budgets.best(graph, scores, allowed)
    return Plan(asked.model, asked.sample, graph, scores, kept), asked.limits


def _to_latency(asked: Asked, what: str, share: float) -> tuple[Plan, Limits]:
    model, sample, graph, scores = asked.model, asked.sample, asked.graph, asked.scores()
    found = search(model, sample, graph, scores, asked.limits, share, asked.uniform)
    met = f"asked {100 * share:g}% of the latency, measured {100 * found.share:.1f}%"
    if not found.met:
        met = f"{met}: it falls no further"
        warnings.warn(
            f"plan: latency={share:g} is out of reach: the time falls no further than to"
            f" {100 * found.share:.1f}%, and what gets there is kept",
            stacklevel=3,
        )
    basis = {"measured": round(found.share, 4)}
    return Plan(model, sample, graph, scores, found.kept, met, basis), asked.limits


def _to_cost(asked: Asked, what: str, share: float) -> tuple[Plan, Limits]:
    """At most this share of what the channels cost."""
    graph = asked.graph
    cost, whole = budgets.COSTS[what], budgets.COSTS[what](graph, {})
    at_most = share * whole * (1 + 1e-12)  # 0.29 * 100 is below 29
    limits = budgets.within_reach(graph, cost, at_most, asked.limits)
    if limits is None:
        raise ValueError(f"plan: {what}={share:g} would empty a layer: {_least(asked, what)}")
    scores = asked.scores()
    if asked.uniform:
        fits = budgets.uniform_widths(graph, lambda w: cost(graph, w), at_most, limits)
        kept = budgets.best(graph, scores, fits)
    else:
        kept = budgets.kept_channels(graph, scores, cost, at_most, limits)
    reached = cost(graph, {name: len(stay) for name, stay in kept.items()}) / whole
    met = f"asked {100 * share:g}% of the {what}, the nearest below is {100 * reached:.2f}%"
    met = "" if reached == share else met
    return Plan(asked.model, asked.sample, graph, scores, kept, met), limits


def _least(asked: Asked, what: str) -> str:
    """What is left of a cost at the smallest widths that are allowed."""
    graph, cost = asked.graph, budgets.COSTS[what]
    fewest = replace(asked.limits, step=0.0)
    least = cost(graph, budgets.narrowest(graph, fewest)) / cost(graph, {})
    hint = "; a smaller min_channels reaches further" if fewest.min_channels > 1 else ""
    channels = "1 channel" if fewest.min_channels == 1 else f"{fewest.min_channels} channels"
    return f"with at least {channels} in each, {least:.3f} remain{hint}"


def budget_of(who: str, shares: Mapping[str, Any]) -> tuple[str, Any]:
    """The one budget that is given, checked."""
    given = {name: share for name, share in shares.items() if share is not None}
    if len(given) != 1:
        raise ValueError(f"{who}: need one of {', '.join(shares)}, got {list(given) or 'none'}")
    [(what, share)] = given.items()
    if not isinstance(share, Mapping) and not 0 < share <= 1:
        raise ValueError(f"{who}: {what} is the share to keep, in (0, 1], got {share}")
    return what, share


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
