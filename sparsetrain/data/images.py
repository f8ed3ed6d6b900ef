"""Labelled images, in batches that can be replayed.

A batch is a function of (split, batch_size, seed, epoch, its index), so a run that stops after
batch i goes on with `batches(..., start=i)` as if it had never stopped, bit for bit.

    shuffle       from (seed, epoch)
    crop, flip    from (seed, epoch, batch index), for the whole batch at once; images that need
                  cropping while they are decoded take theirs from (seed, epoch, image index)
    input         x = (pixel / 255 - mean) / std

No global random state is read or changed.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sparsetrain.data.augment import crop_and_flip, normalise
from sparsetrain.support.chance import random_stream

Batches = Iterator[tuple[Tensor, Tensor]]


class DataError(ValueError):
    """A data set on disk that is missing, damaged or not what it should be."""


@dataclass(frozen=True)
class View:
    """How the images of one pass are read: as they are, or varied by (seed, epoch)."""

    train: bool
    seed: int = 0
    epoch: int = 0


class Source(Protocol):
    """Where the pixels of a split come from."""

    def read(self, parts: Iterable[Tensor], view: View) -> Generator[Tensor, None, None]:
        """For each int64 `[B]` of indices, the images, uint8 `[B, 3, S, S]` on the CPU."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """A data set that fits: 150 MB of bytes for the training images of CIFAR."""

    pixels: Tensor  # uint8 [N, 3, S, S]

    def read(self, parts: Iterable[Tensor], view: View) -> Generator[Tensor, None, None]:
        for part in parts:
            yield self.pixels[part]


@dataclass(frozen=True, eq=False)
class Recipe:
    """From bytes to a network's input; `padding` and `flip` act in training only."""

    mean: Tensor  # float32 [3]
    std: Tensor  # float32 [3]
    padding: int = 4  # random shift of up to this many pixels; what moves in is black
    flip: bool = True  # mirror every other image, left to right


@dataclass(frozen=True, eq=False)
class Split:
    """One half of a data set, for training or for testing."""

    source: Source
    labels: Tensor  # int64 [N]
    recipe: Recipe

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, batch_size: int, *, train: bool) -> int:
        """How many batches one epoch has.

        In training, a last batch of a single image is left out: batch norm cannot use it.
        """
        full, rest = divmod(len(self), batch_size)
        return full + (rest > (1 if train else 0))

    def batches(
        self,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        device: str | torch.device = "cpu",
        channels_last: bool = False,
    ) -> Batches:
        """The batches of one epoch: shuffled and varied if `train`, else in order as they are.

        Args:
            batch_size: images in a batch, B; the last may have fewer.
            seed, epoch: what the order, crops and flips depend on.
            start: batches to skip, without reading them; the rest are what they would have been.

        Returns:
            Pairs of images, float32 `[B, 3, S, S]`, and labels, int64 `[B]`, both on `device`.
        """
        if batch_size < 1:
            raise ValueError(f"batches: batch_size must be at least 1, got {batch_size}")
        steps = self.steps(batch_size, train=train)
        if not 0 <= start <= steps:
            raise ValueError(f"batches: need 0 <= start <= {steps} batches, got start={start}")
        order = torch.arange(len(self))
        if train:
            order = torch.randperm(len(self), generator=random_stream(seed, epoch))
        parts = dict(enumerate(order.split(batch_size)[start:steps], start))
        return self._read(parts, View(train, seed, epoch), torch.device(device), channels_last)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        channels_last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One batch of n images drawn without replacement, not varied: to score weights on."""
        if not 1 <= n <= len(self):
            raise ValueError(f"sample: need 1 <= n <= {len(self)} images, got n={n}")
        drawn = torch.randperm(len(self), generator=random_stream(seed))[:n]
        [batch] = self._read({0: drawn}, View(train=False), torch.device(device), channels_last)
        return batch

    def _read(
        self, parts: dict[int, Tensor], view: View, device: torch.device, channels_last: bool
    ) -> Batches:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        mean, std = self.recipe.mean.to(device), self.recipe.std.to(device)
        with contextlib.closing(self.source.read(parts.values(), view)) as stream:
            for (step, part), pixels in zip(parts.items(), stream, strict=True):
                x = _to(pixels, device)
                if view.train:
                    draws = random_stream(view.seed, view.epoch, step)
                    x = crop_and_flip(x, self.recipe.padding, self.recipe.flip, draws)
                # Laid out last: on a CPU, arithmetic over 3 channels side by side is 5x slower.
                x = normalise(x, mean, std).contiguous(memory_format=layout)
                yield x, _to(self.labels[part], device)


@dataclass(frozen=True, eq=False)
class Images:
    """A data set: what `load` returns."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # (3, S, S)
    mean: Tensor  # float32 [3], of pixels in 0-1
    std: Tensor  # float32 [3]
    train: Split
    test: Split
    note: str = ""  # what to say beside a result, '' if nothing


def _to(batch: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # from pinned memory the copy overlaps with the last step
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)
