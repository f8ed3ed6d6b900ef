"""Image folders: one folder a class, the layout of ImageNet and of most picture collections.

    train/CLASS/...             images at any depth
    val/CLASS/... or test/CLASS/...
    val/images/* with val/val_annotations.txt    Tiny-ImageNet's own test split

Classes are the folders of train/, sorted; those of val/ must be among them. Names that start
with a dot are passed over.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sparsetrain.data.decode import Files, Fit
from sparsetrain.data.images import DataError, Images, Recipe, Split
from sparsetrain.support.reading import text_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
Labelled = list[tuple[str, int]]  # path, class


@dataclass(frozen=True)
class Kind:
    """What sets one collection apart from another."""

    folder: str  # its published name, looked for inside the data folder; '' for none
    size: int  # pixels a side, unless asked otherwise
    photos: bool  # large pictures: a random part in training, the centre of a larger one in tests
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


KINDS = {
    "tiny-imagenet": Kind(
        "tiny-imagenet-200", 64, False, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    ),
    "imagenet": Kind("", 224, True),
    "folder": Kind("", 64, False),
}


def folder(name: str, data_dir: Path, size: int | None, workers: int) -> Images:
    """ "tiny-imagenet", "imagenet" or "folder" from `data_dir`, in squares of `size` pixels.

    Small pictures are shifted and mirrored like CIFAR's. Photos are cut as papers on ImageNet do.
    """
    kind = KINDS[name]
    size = kind.size if size is None else size
    root = data_dir if (data_dir / "train").is_dir() else data_dir / kind.folder
    classes = _classes(root / "train")
    train = _by_class(root / "train", classes)
    test = _test(root, classes)

    # ImageNet's test images are resized to 256 for a crop of 224.
    fit = Fit(size, size * 256 // 224 if kind.photos else size, random_crop=kind.photos)
    shift = {"padding": 0, "flip": False} if kind.photos else {}
    recipe = Recipe(torch.tensor(kind.mean), torch.tensor(kind.std), **shift)

    def split(found: Labelled) -> Split:
        paths, labels = zip(*found, strict=True)
        return Split(Files(paths, fit, workers), torch.tensor(labels), recipe)

    return Images(
        name=name,
        classes=tuple(classes),
        shape=(3, size, size),
        mean=recipe.mean,
        std=recipe.std,
        train=split(train),
        test=split(test),
    )


def _classes(train: Path) -> list[str]:
    if not train.is_dir():
        raise DataError(f"{train}: no such folder; needs train/CLASS/ and val/CLASS/ with images")
    classes = _subfolders(train)
    if not classes:
        raise DataError(f"{train}: needs a folder for each class, found none")
    return classes


def _test(root: Path, classes: list[str]) -> Labelled:
    val = root / "val"
    if (val / "images").is_dir() and (val / "val_annotations.txt").is_file():
        return _annotated(val, classes)
    for part in (val, root / "test"):
        if part.is_dir():
            return _by_class(part, classes)
    raise DataError(f"{root}: needs val/CLASS/ or test/CLASS/ with images, found neither")


def _by_class(part: Path, classes: list[str]) -> Labelled:
    number = {name: i for i, name in enumerate(classes)}
    found = []
    for name in _subfolders(part):
        if name not in number:
            raise DataError(f"{part / name}: not one of the {len(classes)} classes in train/")
        images = sorted(_images(part / name))
        if not images:
            raise DataError(f"{part / name}: needs images ({' '.join(SUFFIXES)}), found none")
        found += [(path, number[name]) for path in images]
    if not found:
        raise DataError(f"{part}: needs a folder for each class, found none")
    return found


def _annotated(val: Path, classes: list[str]) -> Labelled:
    """Tiny-ImageNet: a line is `val_0.JPEG<tab>CLASS<tab>box`, and the images are in one folder."""
    notes = val / "val_annotations.txt"
    number = {name: i for i, name in enumerate(classes)}
    present = set(_images(val / "images"))
    found = []
    try:
        lines = text_of(notes).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{notes}: cannot be read ({error})") from None
    for i, line in enumerate(lines, 1):
        image, name = (*line.split("\t"), "", "")[:2]
        path = str(val / "images" / image)
        if path not in present:
            raise DataError(f"{notes}: line {i} names {path}, which is not there")
        if name not in number:
            raise DataError(f"{notes}: line {i}: {name!r} is not one of the classes in train/")
        found.append((path, number[name]))
    if not found:
        raise DataError(f"{notes}: needs a line for each image, is empty")
    return found


def _subfolders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(x.name for x in entries if x.is_dir() and not x.name.startswith("."))


def _images(path: Path) -> Iterator[str]:
    for here, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(here, name)
