"""Images through a deployed classifier: from files to the likeliest classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from sparsetrain.data.decode import Fit, centre, decoding, opened
from sparsetrain.support.tables import slim
from sparsetrain_runtime import Network

BATCH = 16  # images that are decoded and computed together
CROP = 256 / 224  # the shorter side, for each pixel of the square: as photographs are tested


@dataclass(frozen=True)
class Guess:
    """What a network thinks that an image shows.

    Attributes:
        classes: names, or numbers where the file has none, the likeliest first.
        shares: of the probability, in 0-1.
    """

    image: str
    classes: tuple[str, ...]
    shares: tuple[float, ...]


def classify(network: Network, paths: Sequence[str | Path], top: int = 5) -> Iterator[Guess]:
    """Guesses for image files, in their order.

    Args:
        network: takes one batch of images [N, 3, S, S] and returns one of logits [N, classes]; its
            file's info may have "classes", and "mean" and "std" of pixels in 0-1.

    Raises:
        ValueError: the network is no classifier of images.
        DataError: a file is no image.
    """
    name, size = _images(network)
    names = network.info.get("classes")
    for begin in range(0, len(paths), BATCH):
        part = [str(path) for path in paths[begin : begin + BATCH]]
        x = np.stack([_pixels(path, size, network.info) for path in part])
        [logits] = network({name: x}).values()
        for path, row in zip(part, logits.astype(np.float64), strict=True):
            yield _guess(path, row, names, top)


def _images(network: Network) -> tuple[str, int]:
    """The name of its input, and the side of its images."""
    inputs, outputs = list(network.inputs.items()), list(network.outputs.values())
    if len(inputs) == 1 and len(outputs) == 1 and len(outputs[0].shape) == 2:
        name, spec = inputs[0]
        if len(spec.shape) == 4 and spec.shape[1] == 3 and spec.shape[2] == spec.shape[3]:
            assert spec.shape[2] is not None
            return name, spec.shape[2]
    shown = ", ".join(f"{n} {list(s.shape)}" for n, s in inputs)
    raise ValueError(f"infer: a classifier of images [N, 3, S, S] is needed; this one has {shown}")


def _pixels(path: str, size: int, info: dict[str, Any]) -> np.ndarray:
    with decoding(path):
        square = centre(opened(path), Fit(size, round(size * CROP) if size >= 96 else size))
    pixels = np.asarray(square, np.float32) / 255
    mean, std = (np.array(info.get(k, d), np.float32) for k, d in (("mean", 0), ("std", 1)))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1), np.float32)


def _guess(path: str, logits: np.ndarray, names: Sequence[str] | None, top: int) -> Guess:
    odds = np.exp(logits - logits.max())
    shares = odds / odds.sum()
    best = np.argsort(-shares, kind="stable")[:top]
    known = names if names is not None and len(names) == len(shares) else range(len(shares))
    return Guess(path, tuple(str(known[i]) for i in best), tuple(float(shares[i]) for i in best))


def as_json(guesses: Sequence[Guess]) -> list[dict[str, Any]]:
    return [asdict(guess) for guess in guesses]


def show(guesses: Sequence[Guess], console: Console) -> None:
    """A table: an image a row, its likeliest class and the next ones."""
    table = slim()
    for column in ("image", "class", "sure", "next"):
        table.add_column(column, overflow="fold", justify="right" if column == "sure" else "left")
    for guess in guesses:
        others = zip(guess.classes[1:], guess.shares[1:], strict=True)
        rest = ", ".join(f"{name} {share:.0%}" for name, share in others)
        first = (Text(guess.classes[0]), Text(f"{guess.shares[0]:.1%}"))
        table.add_row(Text(guess.image), *first, Text(rest))
    console.print(table)
