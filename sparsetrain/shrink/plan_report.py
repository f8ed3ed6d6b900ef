"""What a plan says to its reader: a table of groups, a line for each layer, a picture."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from torch import nn

from sparsetrain.shrink.budget import COSTS
from sparsetrain.shrink.graph import PROTECTED, UNREACHED, Graph, Group, Widths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 8  # layers that the table lists; the report has all of them


@dataclass(frozen=True)
class Line:
    """What happens to one layer."""

    layer: str
    state: str  # "pruned", "kept", "protected", "not prunable" or "not used"
    why: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.state}" + (f", {self.why}" if self.why else "")


def table(graph: Graph, widths: Widths, asked: str, basis: Mapping[str, Any]) -> Table:
    """One row a group: what goes, what stays, what cannot go and why."""
    relaxed = basis.get("relaxed", {})
    shares = ", ".join(f"{100 * share(graph, widths, what):.1f}% of the {what}" for what in COSTS)
    caption = f"keeps {shares}" + (f"; {asked}" if asked else "")
    caption += _machine(basis) + _unseen(graph)
    found = Table(
        "channels of", caption=caption, caption_style="", min_width=min(len(caption), 100)
    )
    for heading in ("width", "kept"):
        found.add_column(heading, justify="right")
    found.add_column("why")
    for group in graph.groups:
        if all(m.tensor not in graph.trainable for m in group.members):
            continue
        kept = str(widths[group.name]) if group.fixed is None else "all"
        why = group.fixed or _finer(relaxed, group.name)
        found.add_row(group.name, str(group.width), kept, why)
    return found


def _finer(relaxed: Mapping[str, int], group: str) -> str:
    return f"rounding relaxed to {relaxed[group]}" if group in relaxed else ""


def _machine(basis: Mapping[str, Any]) -> str:
    """What the machine decided, where it was asked to."""
    if "machine" not in basis:
        return ""
    here = basis["machine"]
    return f"; for {here['gpu'] or here['cpu']}, {here['threads']} threads"


def _unseen(graph: Graph) -> str:
    """The layers that no call showed, by the reason why not."""
    layers: dict[str, dict[str, None]] = {}
    for name, why in graph.unseen.items():
        layers.setdefault(why, {})[name.rpartition(".")[0] or name] = None
    return "".join(f"; {_some(list(names))} cannot be cut: {why}" for why, names in layers.items())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def share(graph: Graph, widths: Widths, what: str) -> float:
    """Share of "flops", "parameters", "channels" or "memory" that is kept, in 0-1."""
    cost = COSTS[what]
    return cost(graph, widths) / max(1, cost(graph, {}))


def lines(model: nn.Module, graph: Graph, widths: Widths, relaxed: Mapping[str, int]) -> list[Line]:
    """Every layer that holds parameters: pruned, kept, protected, or not prunable and why."""
    made, read = _groups_of(graph, consumes=False), _groups_of(graph, consumes=True)
    found = []
    for name, module in model.named_modules():
        own = [f"{name}.{n}".removeprefix(".") for n, _ in module.named_parameters(recurse=False)]
        unseen = [t for t in own if t in graph.unseen]
        seen = [t for t in own if t not in graph.unseen]
        name = name or type(module).__name__
        if seen:
            found.append(_line(name, seen, made, read, widths, relaxed))
        if unseen and graph.unseen[unseen[0]] == UNREACHED:
            found.append(Line(name, "not used", UNREACHED))
        elif unseen:
            place = "" if not seen else f"{', '.join(t.rpartition('.')[2] for t in unseen)}: "
            found.append(Line(name, "not prunable", place + graph.unseen[unseen[0]]))
    return found


def _groups_of(graph: Graph, consumes: bool) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in graph.groups:
        for member in group.members:
            if member.consumes == consumes:
                found.setdefault(member.tensor, []).append(group)
    return found


def _line(
    name: str,
    own: list[str],
    made: Mapping[str, list[Group]],
    read: Mapping[str, list[Group]],
    widths: Widths,
    relaxed: Mapping[str, int],
) -> Line:
    groups = {g.name: g for t in own for g in made.get(t, [])}
    inputs = {g.name: g for t in own for g in read.get(t, [])}
    if not groups and not inputs:
        return Line(name, "not used", UNREACHED)
    said = [*_changes("", groups, widths), *_changes("inputs ", inputs, widths)]
    said += [text for n in groups if (text := _finer(relaxed, n))]
    if said:
        return Line(name, "pruned", "; ".join(said))
    reasons = [g.fixed for g in (groups or inputs).values()]
    if None in reasons:
        return Line(name, "kept", "all channels stay")
    if PROTECTED in reasons:
        return Line(name, "protected", "")
    return Line(name, "not prunable", "; ".join(dict.fromkeys(r for r in reasons if r)))


def _changes(what: str, groups: Mapping[str, Group], widths: Widths) -> Iterator[str]:
    for name, group in groups.items():
        left = widths.get(name, group.width)
        if left < group.width:
            yield f"{what}{group.width} -> {left}"


def picture(graph: Graph, widths: Widths) -> "Figure":
    """Channels of each group that may lose some, and how many are kept."""
    from sparsetrain.support import plots  # loads matplotlib

    return plots.widths({g.name: (g.width, widths.get(g.name, g.width)) for g in graph.free})
