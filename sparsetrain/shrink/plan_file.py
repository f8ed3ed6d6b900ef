"""A plan as a JSON file: groups, their widths and the channels that stay; edit it, if you like."""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.shrink.changes import changes_of
from sparsetrain.shrink.graph import Graph, Group
from sparsetrain.shrink.outputs import Outputs
from sparsetrain.support.files import write_text
from sparsetrain.support.nearest import unknown
from sparsetrain.support.reading import reading, text_of
from sparsetrain.support.sample import encoded_or_none
from sparsetrain.support.schema import Anything, Each, Fields, Named, Number, Text
from sparsetrain.support.wrapped import bare, unwrapped

FORMAT = "sparsetrain plan 1"
ENTRY = Fields(
    {"width": Number(whole=True, low=1)}, {"kept": Each(Number(whole=True, low=0, high=2**31))}
)
GROUPS = Named(ENTRY)
FILE = Fields({"format": Text(), "groups": GROUPS}, {"model": Text(), "basis": Named(Anything())})
Kept = Mapping[str, Tensor]


def write(path: Path, model: nn.Module, kept: Kept, graph: Graph, basis: Mapping[str, Any]) -> None:
    """Write what is kept and what the plan hangs on, atomically."""
    groups = groups_of(model, kept, graph)
    lines = ",\n".join(f"    {json.dumps(n)}: {json.dumps(g)}" for n, g in groups.items())
    name = type(unwrapped(model)[0]).__name__
    head = f'{{\n  "format": {json.dumps(FORMAT)},\n  "model": {json.dumps(name)},\n'
    head += f'  "basis": {json.dumps(basis)},\n'
    write_text(path, f'{head}  "groups": {{\n{lines}\n  }}\n}}\n')


def groups_of(model: nn.Module, kept: Kept, graph: Graph) -> dict[str, dict[str, Any]]:
    """Bare group name -> {"width", "kept"}, as a file has it."""
    return {
        _bare(model, name): {"width": graph[name].width, "kept": stay.tolist()}
        for name, stay in kept.items()
    }


def about(
    model: nn.Module, sample: Any, kept: Kept, graph: Graph, as_graph: bool
) -> dict[str, Any]:
    """What `checkpoint.save_model` writes of a removal beside tensors and numbers."""
    encoded = encoded_or_none(sample)
    if not as_graph:
        return {"sample": encoded}
    inner, _ = unwrapped(model)
    state = inner.state_dict()
    origin = {
        "shapes": {bare(inner, n): list(t.shape) for n, t in state.items()},
        "changes": {bare(inner, n): deepcopy(c) for n, c in changes_of(state).items()},
        "heads": graph.walk.heads,
        "outputs": _told(graph.walk.program.wanted),
        "groups": groups_of(model, kept, graph),
        "sample": encoded,
    }
    return {"sample": encoded, "origin": origin}


def _told(outputs: Outputs) -> Any:
    """As a file can say it; of a function, that there was one."""
    if callable(outputs):
        return {"function": getattr(outputs, "__name__", "")}
    return outputs if outputs is None or isinstance(outputs, str | int) else list(outputs)


def read(path: Path, model: nn.Module, graph: Graph) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The channels that stay in each free group of `graph`, and what the plan hangs on.

    Raises:
        ValueError: the file is no plan, or not one of this model.
    """
    with reading(path, "plan"):
        found = json.loads(text_of(path))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f'it does not say "format": "{FORMAT}"')
        FILE.check(found)
    return kept_of(found["groups"], model, graph, str(path)), found.get("basis", {})


def kept_of(
    groups: Mapping[str, Any], model: nn.Module, graph: Graph, source: str
) -> dict[str, Tensor]:
    """Group -> the channels that stay, of all that are free, from what `groups_of` said."""
    free = {_bare(model, group.name): group for group in graph.free}
    stays = {_bare(model, name): entry for name, entry in groups.items()}
    for name, entry in stays.items():
        if name not in free:
            raise unknown("group of channels that may go", name, free, listed=False)
        if entry["width"] != free[name].width:
            raise ValueError(
                f"{source}: {name} has {free[name].width} channels, not {entry['width']}"
            )
    return {
        group.name: checked(group, stays.get(name, {}).get("kept", range(group.width)))
        for name, group in free.items()
    }


def checked(group: Group, kept: Any) -> Tensor:
    """Channels that stay in a group, ascending, as int64."""
    numbers = kept.tolist() if isinstance(kept, Tensor) else kept
    if not isinstance(numbers, list | tuple | range) or not all(type(n) is int for n in numbers):
        raise ValueError(f"plan: {group.name} keeps a list of channel numbers, got {kept!r}")
    if not numbers or min(numbers) < 0 or max(numbers) >= group.width:
        raise ValueError(
            f"plan: {group.name} keeps at least one of its channels 0 to {group.width - 1},"
            f" got {list(numbers)[:8]}"
        )
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"plan: {group.name} keeps a channel twice")
    return torch.tensor(sorted(numbers))


def _bare(model: nn.Module, group: str) -> str:
    """The name of a group, `conv1`, `conv1#2` or `conv1 (input)`, without wrappers."""
    tensor = re.split("[# ]", group, maxsplit=1)[0]
    return bare(model, tensor) + group[len(tensor) :]
