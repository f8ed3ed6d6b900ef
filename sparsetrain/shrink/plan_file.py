"""A plan as a JSON file: groups, their widths and the channels that stay; edit it, if you like."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsetrain.shrink.graph import Graph, Group
from sparsetrain.support.files import write_text
from sparsetrain.support.nearest import unknown

FORMAT = "sparsetrain plan 1"


def write(
    path: Path, model: str, kept: Mapping[str, Tensor], graph: Graph, basis: Mapping[str, Any]
) -> None:
    """Write what is kept and what the plan hangs on, atomically."""
    groups = {n: {"width": graph[n].width, "kept": stay.tolist()} for n, stay in kept.items()}
    lines = ",\n".join(f"    {json.dumps(n)}: {json.dumps(g)}" for n, g in groups.items())
    head = f'{{\n  "format": {json.dumps(FORMAT)},\n  "model": {json.dumps(model)},\n'
    head += f'  "basis": {json.dumps(basis)},\n'
    write_text(path, f'{head}  "groups": {{\n{lines}\n  }}\n}}\n')


def read(path: Path, graph: Graph) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The channels that stay in each free group of `graph`, and what the plan hangs on.

    Raises:
        ValueError: the file is no plan, or not one of this model.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} holds no plan: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f'{path} holds no plan: it does not say "format": "{FORMAT}"')
    groups = found.get("groups")
    if not isinstance(groups, dict):
        raise ValueError(f"{path} holds no groups")
    free = {group.name: group for group in graph.free}
    for name, entry in groups.items():
        if name not in free:
            raise unknown("group of channels that may go", name, free, listed=False)
        if not isinstance(entry, dict) or entry.get("width") != free[name].width:
            width = entry.get("width") if isinstance(entry, dict) else None
            raise ValueError(f"{path}: {name} has {free[name].width} channels, not {width}")
    stays = {n: entry.get("kept") for n, entry in groups.items()}
    kept = {n: checked(group, stays.get(n, range(group.width))) for n, group in free.items()}
    basis = found.get("basis", {})
    if not isinstance(basis, dict):
        raise ValueError(f"{path}: basis is an object, got {basis!r}")
    return kept, basis


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
