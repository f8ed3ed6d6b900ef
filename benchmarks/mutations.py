"""Random changes of bytes and of trees of JSON and tensors. See fuzz_files.py."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsetrain import checkpoint

STRANGE = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 10**30, -0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "ä" * 300, "\ud800", "../x", [], {}, [[]], [1, "a"], {"$tensor": "/none"}),
)


def write_changed(whole: bytes, content: str, path: Path, dice: random.Random) -> None:
    """Write a changed file to `path`: of "json", or of a "checkpoint"."""
    if dice.random() < 0.5:
        path.write_bytes(_bytes(whole, dice))
    elif content == "json":
        text = json.dumps(_tree(json.loads(whole), dice))
        path.write_text(text.replace('"deep"', "[" * 10**5), encoding="utf-8")
    else:
        path.write_bytes(whole)
        checkpoint.save(path, _tree(checkpoint.load(path), dice))


def _bytes(whole: bytes, dice: random.Random) -> bytes:
    data = bytearray(whole)
    start = dice.randrange(len(data))
    end = min(len(data), start + dice.choice((1, 8, 100, 10**4)))
    how = dice.choice(("flip", "flip", "cut", "drop", "repeat", "zero", "text"))
    if how == "flip":
        for _ in range(dice.choice((1, 1, 4))):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif how == "cut":
        del data[start:]
    elif how == "drop":
        del data[start:end]
    elif how == "repeat":
        data[end:end] = data[start:end]
    elif how == "zero":
        data[start:end] = bytes(end - start)
    else:
        data[start:start] = dice.choice((b"[" * 10**5, b"1e999", b"null", b"\xff", b"9" * 5000))
    return bytes(data)


def _tree(tree: Any, dice: random.Random) -> Any:
    """The same with one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(dice.choice((1, 1, 1, 3))):
        places = list(_places(tree))
        if places:
            _change(*dice.choice(places), dice)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of everything in it."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list) and len(tree[key]) < 700:
            yield from _places(tree[key])


def _change(holder: Any, key: Any, dice: random.Random) -> None:
    value, how = holder[key], dice.choice(("strange", "near", "near", "drop", "add", "swap"))
    if how == "drop":
        del holder[key]
    elif how == "add" and isinstance(holder, dict):
        holder["_strange"] = copy.deepcopy(value)
    elif how == "swap":
        other = dice.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        strange = copy.deepcopy(dice.choice((*STRANGE, "deep")))
        holder[key] = _near(value, dice) if how == "near" else strange


def _near(value: Any, dice: random.Random) -> Any:
    """Of the same kind, but another."""
    if isinstance(value, Tensor):
        options = (value[..., :-1] if value.dim() else value, value.double(), value.flatten())
        nan = torch.full_like(value, float("nan")) if value.is_floating_point() else value * 0
        return dice.choice((*options, nan, value.bool(), value.repeat(2, *[1] * (value.dim() - 1))
                            if value.dim() else value))  # fmt: skip
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return dice.choice((value + 1, -value, value * 1000, value * 0, float(value)))
    if isinstance(value, str):
        return dice.choice((value + "x", value[:-1], value.upper()))
    return value * 2 if isinstance(value, list) else {**value, "more": 1}
