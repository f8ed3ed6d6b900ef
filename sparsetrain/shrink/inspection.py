"""What a model is made of: groups of channels, and FLOPs and time of each layer."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn

from sparsetrain import models
from sparsetrain.shrink import Graph, trace
from sparsetrain.shrink.latency import times
from sparsetrain.support import plots
from sparsetrain.support.sources import find_network
from sparsetrain.support.timings import Cache

IMAGE = (1, 3, 224, 224)
BARS = 30  # of a picture, unless asked otherwise
NARROW = 80  # columns, below which tables leave out what can be computed or guessed
TOKENS = (1, 16)


@dataclass(frozen=True)
class LayerCost:
    """One module of the model, its own operations only."""

    name: str
    kind: str
    flops: int
    ms: float


def find_model(spec: str) -> nn.Module:
    """One of our own networks, or `torchvision.models:resnet50`, `timm:resnet18`, `net.py:make`."""
    if ":" in spec:
        return find_network(spec)
    return models.build(spec, classes=10)


def find_sample(model: nn.Module, shape: str) -> Any:
    """One input: of the shape asked for, of what the model says of itself, or an image."""
    if shape:
        return torch.randn(parse_shape(shape))
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping) and dummy:
        return dict(dummy)
    size = getattr(model, "default_cfg", {}).get("input_size")
    first = next((m for m in model.modules() if isinstance(m, nn.Embedding | nn.Conv2d)), None)
    if isinstance(first, nn.Embedding):
        return torch.zeros(TOKENS, dtype=torch.long)
    return torch.randn((1, *size) if size else IMAGE)


def parse_shape(text: str) -> tuple[int, ...]:
    """ "1,3,224,224" as numbers."""
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError as error:
        raise ValueError(f"--input needs sizes such as 1,3,224,224, got {text!r}") from error
    if min(shape) < 1:
        raise ValueError(f"--input needs sizes of 1 or more, got {text!r}")
    return shape


@dataclass(frozen=True)
class Inspection:
    """A model's groups and layers."""

    graph: Graph
    layers: list[LayerCost]

    def as_dict(self) -> dict[str, Any]:
        groups = [
            {
                "name": g.name,
                "width": g.width,
                "tensors": len({m.tensor for m in g.members}),
                "flops": _group_flops(self.graph, g.name),
                "fixed": g.fixed,
            }
            for g in self.graph.groups
        ]
        return {
            "parameters": self.graph.parameters(),
            "flops": self.graph.flops(),
            "ms": sum(layer.ms for layer in self.layers),
            "groups": groups,
            "layers": [vars(layer) for layer in self.layers],
        }

    def slowest(self, top: int) -> list[LayerCost]:
        """The layers that take longest, in the network's order, and the others as one; 0: all."""
        if not 0 < top < len(self.layers):
            return self.layers
        by_time = sorted(self.layers, key=lambda layer: layer.ms, reverse=True)
        flops, ms = (sum(getattr(c, of) for c in by_time[top:]) for of in ("flops", "ms"))
        shown = {layer.name for layer in by_time[:top]}
        others = LayerCost(f"{len(self.layers) - top} others", "", flops, ms)
        return [*(layer for layer in self.layers if layer.name in shown), others]

    def show(self, console: Console, top: int = 0) -> None:
        """Both tables, of the layers the `top` slowest (0: all), and what they sum up to."""
        console.print(self._groups(wide=console.width >= NARROW))
        console.print(self._layers(top, wide=console.width >= NARROW))
        free = sum(g.width for g in self.graph.free)
        groups = "1 group" if len(self.graph.free) == 1 else f"{len(self.graph.free)} groups"
        total = sum(layer.ms for layer in self.layers)
        console.print(
            f"{self.graph.parameters():,} parameters, {self.graph.flops() / 1e6:,.1f} MFLOPs a"
            f" sample, {total:.2f} ms; {free:,} channels of {groups} may go",
            highlight=False,
        )

    def _groups(self, wide: bool) -> Table:
        table = Table(title="groups of channels that go together")
        table.add_column("channels of", overflow="fold", no_wrap=wide)
        for heading in ("width", "tensors", "MFLOPs") if wide else ("width", "MFLOPs"):
            table.add_column(heading, justify="right")
        table.add_column("fixed, since", overflow="fold")
        for group in self.graph.groups:
            if any(m.tensor in self.graph.trainable for m in group.members):
                flops = f"{_group_flops(self.graph, group.name) / 1e6:,.1f}"
                tensors = [str(len({m.tensor for m in group.members}))] if wide else []
                table.add_row(group.name, str(group.width), *tensors, flops, group.fixed or "")
        return table

    def _layers(self, top: int, wide: bool) -> Table:
        table = Table(title="FLOPs of a sample, time of one call")
        for heading in ("layer", "kind") if wide else ("layer",):
            table.add_column(heading, overflow="fold")
        for heading in ("MFLOPs", "ms", "GFLOP/s") if wide else ("MFLOPs", "ms"):
            table.add_column(heading, justify="right")
        for layer in self.slowest(top):
            rate = f"{layer.flops / layer.ms / 1e6:,.1f}" if layer.ms and layer.flops else ""
            flops = f"{layer.flops / 1e6:,.1f}" if layer.flops else ""
            kind, rates = ([layer.kind], [rate]) if wide else ([], [])
            table.add_row(layer.name, *kind, flops, f"{layer.ms:.3f}", *rates)
        return table


def examine(model: nn.Module, sample: Any) -> Inspection:
    """Trace the model on the sample, and time its operations on this machine."""
    graph = trace(model.eval(), sample)
    ms: dict[str, float] = defaultdict(float)
    for module, each in times(graph, Cache()):
        ms[module] += each
    flops: Counter[str] = Counter()
    for layer in graph.layers:
        owner = layer.weight.rpartition(".")[0]
        flops[owner] += 2 * layer.positions * math.prod(graph.shapes[layer.weight])
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    costs = [
        LayerCost(name or type(model).__name__, kinds[name], flops[name], ms[name])
        for name in kinds
        if name in ms or name in flops
    ]
    return Inspection(graph, costs)


def _group_flops(graph: Graph, name: str) -> int:
    group = graph[name]
    return round(group.width * graph.channel_flops(group, consumers=False))


def picture(inspection: Inspection, top: int = BARS) -> Figure:
    """Bars of the slowest layers' time, FLOPs beside them."""
    layers = inspection.slowest(top)
    costs = {c.name: (c.ms, c.flops / 1e6) for c in layers}
    if len(layers) >= len(inspection.layers):
        return plots.layer_costs(costs)
    ms, mflops = (sum(of) for of in zip(*costs.values(), strict=True))
    del costs[layers[-1].name]  # longer than all bars together
    return plots.layer_costs(costs, (ms, mflops))
