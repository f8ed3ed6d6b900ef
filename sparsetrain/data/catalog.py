"""Which data sets there are, by name."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sparsetrain.data.cifar import cifar
from sparsetrain.data.digits import digits
from sparsetrain.data.folder import folder
from sparsetrain.data.images import DataError, Images


@dataclass(frozen=True)
class Entry:
    """One data set: what its folder must hold, and how it is read."""

    read: Callable[[str, Path, int | None, int], Images]  # name, data_dir, size, workers
    layout: str = ""  # '' where no folder is needed
    resizable: bool = False


_FOLDERS = "train/CLASS/ and val/CLASS/ (or test/CLASS/) with images"
ENTRIES = {
    "digits": Entry(lambda name, data_dir, size, workers: digits()),
    "cifar10": Entry(
        lambda name, data_dir, size, workers: cifar(name, data_dir),
        "cifar-10-batches-bin/ or cifar-10-batches-py/ as published",
    ),
    "cifar100": Entry(
        lambda name, data_dir, size, workers: cifar(name, data_dir),
        "cifar-100-binary/ or cifar-100-python/ as published",
    ),
    "tiny-imagenet": Entry(folder, "tiny-imagenet-200/ as published", resizable=True),
    "imagenet": Entry(folder, _FOLDERS, resizable=True),
    "folder": Entry(folder, _FOLDERS, resizable=True),
}


def names() -> tuple[str, ...]:
    """What `load` can be asked for."""
    return tuple(ENTRIES)


def load(
    name: str, data_dir: str | Path | None = None, *, workers: int = 2, size: int | None = None
) -> Images:
    """A data set, ready to be read in batches.

    Args:
        name: one of `names()`.
        data_dir: where its files are; "digits" needs none.
        workers: processes that decode image files; data sets held in memory start none.
        size: pixels a side, for image files; by default 224 for "imagenet", else 64.
    """
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=1, cutoff=0.4)
        hint = f", did you mean {near[0]!r}?" if near else ";"
        raise ValueError(f"load: no data set {name!r}{hint} There are {', '.join(ENTRIES)}")
    entry = ENTRIES[name]
    if workers < 0:
        raise ValueError(f"load: workers must be 0 or more, got {workers}")
    if size is not None and not entry.resizable:
        raise ValueError(f"load: {name} has one size, got size={size}")
    if size is not None and size < 1:
        raise ValueError(f"load: size must be at least 1, got {size}")
    return entry.read(name, _folder(name, data_dir, entry.layout), size, workers)


def _folder(name: str, data_dir: str | Path | None, layout: str) -> Path:
    if not layout:
        return Path()
    if data_dir is None:
        raise DataError(f"load: {name} needs --data-dir DIR, a folder that holds {layout}")
    if not Path(data_dir).is_dir():
        raise DataError(f"load: --data-dir {data_dir} is no folder; {name} needs {layout} in it")
    return Path(data_dir)
