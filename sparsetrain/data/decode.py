"""Decode image files in worker processes, in order, ahead of their use.

The stream is the same for any number of workers: what is random about an image comes from
(seed, epoch, image index). A worker is sent paths and numbers and sends back bytes, so it starts
cheaply wherever processes are started afresh instead of forked.
"""

import signal
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sparsetrain.data.images import DataError, View

Box = tuple[int, int, int, int]  # left, top, right, bottom
BILINEAR = Image.Resampling.BILINEAR
AREA = (0.08, 1.0)  # share of the picture that a random crop keeps
RATIO = (3 / 4, 4 / 3)  # its width over its height


@dataclass(frozen=True)
class Fit:
    """How a picture becomes a square of `size`: shorter side to `resize`, then the centre.

    With `random_crop`, training takes a random part of the picture instead, and mirrors half:
    Szegedy et al., "Going Deeper with Convolutions", 2014, section 6.
    """

    size: int
    resize: int
    random_crop: bool = False


@dataclass(frozen=True, eq=False)
class Files:
    """Images in files: too many to hold, so decoded again in each epoch."""

    paths: Sequence[str]
    fit: Fit
    workers: int  # 0 decodes in the calling process

    def read(self, parts: Iterable[Tensor], view: View) -> Generator[Tensor, None, None]:
        loader = DataLoader(
            _Decoder(self.fit, view),
            batch_size=None,  # an item is a batch already
            sampler=([(i, self.paths[i]) for i in part.tolist()] for part in parts),
            num_workers=self.workers,
            generator=torch.Generator(),  # or it would draw from torch's own
            worker_init_fn=_leave_interrupts,
        )
        # Nothing else holds the iterator: when this generator ends, is closed or is interrupted,
        # so do the workers.
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches workers too; the caller ends them, without a traceback from each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class _Decoder(Dataset):
    fit: Fit
    view: View

    def __getitem__(self, part: list[tuple[int, str]]) -> Tensor | DataError:
        """Uint8 `[B, 3, S, S]`, or the error: raised here, it would arrive as a traceback."""
        try:
            images = [self._decode(index, path) for index, path in part]
        except DataError as error:
            return error
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def _decode(self, index: int, path: str) -> np.ndarray:
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
        except Exception as error:  # Pillow's decoders fail in many ways, all of them the file's
            raise DataError(f"{path}: cannot be read as an image ({error})") from None
        if self.view.train and self.fit.random_crop:
            rng = Random(f"{self.view.seed}/{self.view.epoch}/{index}")
            return np.asarray(random_part(picture, self.fit.size, rng))
        return np.asarray(centre(picture, self.fit))


def centre(picture: Image.Image, fit: Fit) -> Image.Image:
    """The picture with its shorter side at `fit.resize`, cut to a square around its centre."""
    short = min(picture.size)
    width, height = (max(fit.size, side * fit.resize // short) for side in picture.size)
    if picture.size != (width, height):
        picture = picture.resize((width, height), BILINEAR)
    left, top = round((width - fit.size) / 2), round((height - fit.size) / 2)
    return picture.crop((left, top, left + fit.size, top + fit.size))


def random_part(picture: Image.Image, size: int, rng: Random) -> Image.Image:
    """A random box of the picture, resized to a square and mirrored every other time."""
    part = picture.resize((size, size), BILINEAR, box=random_box(*picture.size, rng))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def random_box(width: int, height: int, rng: Random) -> Box:
    """A box of random area and shape; after ten that do not fit, the largest in the centre."""
    for _ in range(10):
        area = width * height * rng.uniform(*AREA)
        ratio = exp(rng.uniform(*map(log, RATIO)))
        w, h = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
