"""Decode image files in worker processes, in order, ahead of their use.

The stream is the same for any number of workers: what is random about an image comes from
(seed, epoch, image index). A worker is sent paths and numbers and sends back bytes, so it starts
cheaply wherever processes are started afresh instead of forked.
"""

import os
import signal
import stat
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")  # others may start programs, as EPS does
LARGEST = 64_000_000  # pixels: some 200 MB while one is decoded
LONGEST = 100  # times as long as wide, or the other way round
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
    """Signals of Ctrl-C and the like reach workers too; the caller ends them, quietly."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


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
        with decoding(path):
            picture = opened(path)
            if self.view.train and self.fit.random_crop:
                rng = Random(f"{self.view.seed}/{self.view.epoch}/{index}")
                return np.asarray(random_part(picture, self.fit.size, rng))
            return np.asarray(centre(picture, self.fit))


@contextmanager
def decoding(path: str) -> Iterator[None]:
    """Turn what goes wrong with a picture into one line that names its file."""
    try:
        yield
    except Exception as error:  # Pillow's decoders fail in many ways, all of them the file's
        told = error.strerror if isinstance(error, OSError) else None
        why = told or str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read as an image ({why})") from None


def opened(path: str) -> Image.Image:
    """The picture in a file, in RGB; its size is looked at before it is decoded."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours is the lower limit
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST or max(width, height) > LONGEST * min(width, height):
                raise ValueError(
                    f"it has {width} x {height} pixels; {LARGEST:,} at most are read, and no more"
                    f" than {LONGEST} times as many one way as the other"
                )
            return image.convert("RGB")


def centre(picture: Image.Image, fit: Fit) -> Image.Image:
    """The square around the picture's centre, as if its shorter side had been `fit.resize`."""
    short = min(picture.size)
    (w, left), (h, top) = (_middle(side, short, fit) for side in picture.size)
    if picture.size == (w, h):
        return picture.crop((left, top, left + fit.size, top + fit.size))
    # Only what is seen is resized: the whole of a long picture would be long times as large.
    x, y = picture.width / w, picture.height / h
    box = (left * x, top * y, (left + fit.size) * x, (top + fit.size) * y)
    return picture.resize((fit.size, fit.size), BILINEAR, box=box)


def _middle(side: int, short: int, fit: Fit) -> tuple[int, int]:
    """What a side becomes as a whole, and where the square begins on it."""
    whole = max(fit.size, side * fit.resize // short)
    return whole, round((whole - fit.size) / 2)


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
