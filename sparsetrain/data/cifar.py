"""CIFAR-10 and CIFAR-100, from the files as they were published, in either layout.

    binary   records of label bytes and 3072 pixel bytes: cifar-10-batches-bin/*.bin (one label),
             cifar-100-binary/*.bin (a coarse label, then the fine one, which is used)
    python   pickles of a dict with data, uint8 [N, 3072], and labels: cifar-10-batches-py/,
             cifar-100-python/; read without running what is in them, see plain_pickle.py

A pixel row is 3 channels x 32 rows x 32 columns. Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsetrain.data.cifar_classes import CIFAR10, CIFAR100
from sparsetrain.data.images import DataError, Images, InMemory, Recipe, Split
from sparsetrain.data.plain_pickle import PlainArray, file_of, plain_pickle

SHAPE = (3, 32, 32)
PUBLISHED = (50_000, 10_000)  # images to train on, to test on
Records = tuple[np.ndarray, np.ndarray]  # uint8 [N, 3072], int64 [N]


@dataclass(frozen=True)
class Layout:
    """The files of one published archive."""

    folder: str
    train: tuple[str, ...]
    test: str
    names: str  # the file of the class names
    labels: str | int  # key of the labels in a pickle, or label bytes in a record

    def read(self, path: Path) -> Records:
        if isinstance(self.labels, int):
            return _read_binary(path, self.labels)
        return _read_pickle(path, self.labels)


@dataclass(frozen=True)
class Kind:
    """What sets CIFAR-10 and CIFAR-100 apart."""

    layouts: tuple[Layout, Layout]
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_FIVE = tuple(f"data_batch_{i}" for i in range(1, 6))
KINDS = {
    "cifar10": Kind(
        layouts=(
            Layout(
                "cifar-10-batches-bin",
                tuple(f"{name}.bin" for name in _FIVE),
                "test_batch.bin",
                "batches.meta.txt",
                1,
            ),
            Layout("cifar-10-batches-py", _FIVE, "test_batch", "batches.meta", "labels"),
        ),
        classes=CIFAR10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Kind(
        layouts=(
            Layout("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", 2),
            Layout("cifar-100-python", ("train",), "test", "meta", "fine_labels"),
        ),
        classes=CIFAR100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}


def cifar(name: str, data_dir: Path) -> Images:
    """ "cifar10" or "cifar100" from `data_dir`, or from the published folder inside it."""
    kind = KINDS[name]
    folder, layout = _find(kind, data_dir)
    classes = _class_names(folder, layout, kind.classes)
    recipe = Recipe(torch.tensor(kind.mean), torch.tensor(kind.std))

    def split(files: tuple[str, ...]) -> Split:
        parts = [_checked(folder / file, layout, len(classes)) for file in files]
        pixels, labels = (
            torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)
        )
        return Split(InMemory(pixels.view(-1, *SHAPE)), labels, recipe)

    train, test = split(layout.train), split((layout.test,))
    return Images(
        name=name,
        classes=classes,
        shape=SHAPE,
        mean=recipe.mean,
        std=recipe.std,
        train=train,
        test=test,
        note=_note(len(train), len(test)),
    )


def _note(*found: int) -> str:
    """Fewer images than were published make another task, so a result must say so."""
    if found == PUBLISHED:
        return ""
    return "{:,} training and {:,} test images; {:,} and {:,} were published".format(
        *found, *PUBLISHED
    )


def _find(kind: Kind, data_dir: Path) -> tuple[Path, Layout]:
    for layout in kind.layouts:
        for folder in (data_dir, data_dir / layout.folder):
            # One file is enough to choose; a missing one is then named when it is read.
            if any((folder / file).is_file() for file in (*layout.train, layout.test)):
                return folder, layout
    wanted = " or ".join(f"{x.folder}/ ({', '.join((*x.train, x.test))})" for x in kind.layouts)
    raise DataError(f"{data_dir}: needs {wanted}, found neither")


def _checked(path: Path, layout: Layout, classes: int) -> Records:
    pixels, labels = layout.read(path)
    if bad := sorted(set(labels.tolist()) - set(range(classes))):
        raise DataError(f"{path}: needs labels 0 to {classes - 1}, got {bad[0]}")
    return pixels, labels


def _read_binary(path: Path, label_bytes: int) -> Records:
    width = label_bytes + prod(SHAPE)
    raw = np.frombuffer(file_of(path), np.uint8)
    if not len(raw) or len(raw) % width:
        raise DataError(f"{path}: needs records of {width} bytes, got {len(raw)} bytes in all")
    records = raw.reshape(-1, width)
    return records[:, label_bytes:], records[:, label_bytes - 1].astype(np.int64)


def _read_pickle(path: Path, key: str) -> Records:
    content = plain_pickle(path)
    data, labels = (_entry(content, name, path) for name in ("data", key))
    if not isinstance(data, PlainArray):
        raise DataError(f"{path}: needs data as an array, got {type(data).__name__}")
    pixels = data.array(path)
    if pixels.ndim != 2 or pixels.shape[1] != prod(SHAPE) or not len(pixels):
        raise DataError(f"{path}: needs data of shape (N, {prod(SHAPE)}), got {pixels.shape}")
    if odd := sorted({type(x).__name__ for x in _listed(labels, key, path)} - {"int"}):
        raise DataError(f"{path}: needs {key} as whole numbers, got {odd[0]}")
    if len(labels) != len(pixels):
        raise DataError(f"{path}: needs {len(pixels)} {key}, one an image, got {len(labels)}")
    try:
        return pixels, np.array(labels, np.int64)
    except OverflowError:
        raise DataError(f"{path}: {key} do not fit 64 bits") from None


def _class_names(folder: Path, layout: Layout, known: tuple[str, ...]) -> tuple[str, ...]:
    path = folder / layout.names
    if not path.is_file():
        return known
    if isinstance(layout.labels, int):
        names = file_of(path).split()
    else:
        key = "label_names" if layout.labels == "labels" else "fine_label_names"
        names = _entry(plain_pickle(path), key, path)
    if not all(isinstance(x, str | bytes) for x in _listed(names, "class names", path)):
        raise DataError(f"{path}: needs class names as text")
    if len(names) != len(known):
        raise DataError(f"{path}: needs {len(known)} class names, got {len(names)}")
    return tuple(x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in names)


def _entry(content: Any, key: str, path: Path) -> Any:
    """Python 2 wrote the keys as bytes, Python 3 writes them as text."""
    if isinstance(content, dict):
        for form in (key, key.encode()):
            if form in content:
                return content[form]
    raise DataError(f"{path}: needs a dict with {key!r}")


def _listed(value: Any, what: str, path: Path) -> list:
    if not isinstance(value, list):
        raise DataError(f"{path}: needs {what} as a list, got {type(value).__name__}")
    return value
