import multiprocessing
import os
import struct
import zlib
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from sparsetrain.data import DataError, load
from sparsetrain.data.decode import Fit, centre, random_box
from sparsetrain.data.images import View

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on a machine of one core
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


def draw(path, seed, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes with 5 + 4 images to train on and 2 + 1 to test on, in lossless files."""
    for i in range(5):
        draw(tmp_path / f"train/cat/{i}.png", i)
    for i in range(4):
        draw(tmp_path / f"train/dog/deeper/{i}.bmp", 10 + i)
    for i in range(2):
        draw(tmp_path / f"val/cat/{i}.png", 20 + i)
    draw(tmp_path / "val/dog/0.png", 30)
    return tmp_path


@pytest.fixture
def tiny(tmp_path):
    """Tiny-ImageNet's layout."""
    folder = tmp_path / "tiny-imagenet-200"
    for i, name in enumerate(["n01", "n02"]):
        for j in range(3):
            draw(folder / f"train/{name}/images/{name}_{j}.JPEG", 10 * i + j, (64, 64))
    for i in range(3):
        draw(folder / f"val/images/val_{i}.JPEG", 50 + i, (64, 64))
    lines = [
        f"val_{i}.JPEG\t{name}\t0\t0\t62\t62\n" for i, name in enumerate(["n02", "n01", "n02"])
    ]
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    return tmp_path


def pixels(images, x):
    shown = x * images.std[:, None, None] + images.mean[:, None, None]
    return (shown * 255).round().byte()


def test_finds_classes_and_images(root):
    images = load("folder", root, size=8, workers=0)
    assert (images.name, images.classes, images.shape) == ("folder", ("cat", "dog"), (3, 8, 8))
    assert images.train.labels.tolist() == [0] * 5 + [1] * 4
    assert images.test.labels.tolist() == [0, 0, 1]


def test_shows_the_files(root):
    images = load("folder", root, size=10, workers=0)
    [(x, _)] = images.test.batches(9, train=False)
    with Image.open(root / "val/cat/1.png") as file:
        wanted = torch.from_numpy(np.array(file))[:, 1:11].permute(2, 0, 1)  # 12 wide, cut to 10
    assert torch.equal(pixels(images, x)[1], wanted)


def test_test_may_be_called_test(root):
    (root / "val").rename(root / "test")
    assert len(load("folder", root).test) == 3


def test_hidden_and_other_files_are_passed_over(root):
    for name in (
        "train/.cache/x.png",
        "train/cat/._0.png",
        "train/cat/notes.txt",
        "train/list.txt",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("not an image")
    assert len(load("folder", root).train) == 9


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPEG", ".png", ".PNG", ".bmp", ".webp"])
def test_kinds_of_files(root, suffix):
    draw(root / f"train/elk/0{suffix}", 0)
    images = load("folder", root, size=8, workers=0)
    assert [x.shape for x, _ in images.train.batches(10, train=True)] == [(10, 3, 8, 8)]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_colours_become_rgb(root, mode):
    path = root / "val/dog/0.png"
    with Image.open(path) as picture:
        picture.convert(mode).save(path, format="TIFF")
    [(x, _)] = load("folder", root, size=8, workers=0).test.batches(3, train=False)
    assert x.shape == (3, 3, 8, 8)


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_any_number_of_workers_gives_the_same(root, name):
    def epoch(workers, start=0):
        split = load(name, root, size=8, workers=workers).train
        return list(split.batches(2, train=True, seed=5, epoch=1, start=start))

    state = torch.get_rng_state()
    wanted = epoch(0)
    for batches in (epoch(1), epoch(2), epoch(2, start=1)):
        for (x, y), (a, b) in zip(batches, wanted[-len(batches) :], strict=True):
            assert torch.equal(x, a)
            assert torch.equal(y, b)
    assert len(wanted) == 4  # the ninth image is left out
    assert torch.equal(torch.get_rng_state(), state)


def test_each_epoch_and_seed_cuts_each_photo_anew(root):
    source = load("imagenet", root, size=8, workers=0).train.source
    views = [View(train=True, seed=seed, epoch=epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    cuts = [next(source.read([torch.arange(9)], view)) for view in views]
    again = next(source.read([torch.tensor([7, 2])], views[0]))
    assert torch.equal(again, cuts[0][[7, 2]])
    assert not torch.equal(cuts[0], cuts[1])
    assert not torch.equal(cuts[0], cuts[2])


def test_workers_end_with_the_loop(root):
    stream = load("folder", root, size=8, workers=2).train.batches(2, train=True)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert not multiprocessing.active_children()


def test_workers_end_when_the_caller_is_interrupted(root):
    split = load("folder", root, size=8, workers=2).train

    def interrupted():
        for _ in split.batches(2, train=True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_image_is_one_line(tiny, workers):
    path = tiny / "tiny-imagenet-200/val/images/val_1.JPEG"
    path.write_bytes(path.read_bytes()[:500])
    images = load("tiny-imagenet", tiny, workers=workers)
    with pytest.raises(DataError, match=r"val_1.JPEG: cannot be read as an image") as caught:
        list(images.test.batches(2, train=False))
    assert "\n" not in str(caught.value)


def test_image_gone_since(root):
    images = load("folder", root, workers=0)
    (root / "val/cat/0.png").unlink()
    with pytest.raises(DataError, match=r"0.png: cannot be read as an image"):
        images.test.sample(3)


def png(width, height):
    """The head of a PNG, in front of nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", b""), (b"IEND", b"")]
    body = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(100_000, 100_000), "Image size"),  # what Pillow refuses itself
        (png(10_000, 10_000), r"it has 10000 x 10000 pixels; 64,000,000 at most are read"),
        (png(1, 163_000), "it has 1 x 163000 pixels"),
        (png(101, 1), "no more than 100 times as many one way as the other"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify image file"),
        (None, "it is no file"),
    ],
)
def test_images_that_ask_for_too_much(root, content, message):
    path = root / "val/cat/0.png"
    path.unlink()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    images = load("imagenet", root, workers=0)
    with pytest.raises(DataError, match=rf"0.png: cannot be read as an image \(.*{message}"):
        images.test.sample(3)


@pytest.mark.parametrize("size", [(2000, 20), (20, 2000), (640, 480), (9, 9)], ids=str)
def test_the_centre_is_that_of_the_whole_picture_resized(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    picture, fit = Image.fromarray(pixels), Fit(224, 256)
    w, h = (side * 256 // min(size) for side in size)
    left, top = round((w - 224) / 2), round((h - 224) / 2)
    whole = picture.resize((w, h), Image.Resampling.BILINEAR)
    wanted = np.asarray(whole.crop((left, top, left + 224, top + 224)), int)
    assert np.abs(np.asarray(centre(picture, fit), int) - wanted).max() <= 1  # rounded otherwise


def test_a_picture_without_memory_for_it(root, monkeypatch):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr("sparsetrain.data.decode.centre", fails)
    with pytest.raises(DataError, match=r"cannot be read as an image \(MemoryError\)"):
        load("folder", root, workers=0).test.sample(3)


@pytest.mark.parametrize("inner", ["", "tiny-imagenet-200"])
def test_tiny_imagenet(tiny, inner):
    images = load("tiny-imagenet", tiny / inner, workers=0)
    assert (images.classes, images.shape) == (("n01", "n02"), (3, 64, 64))
    assert images.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.test.labels.tolist() == [1, 0, 1]
    assert images.train.recipe.flip
    x, _ = images.test.sample(3)
    assert x.shape == (3, 3, 64, 64)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("val_9.JPEG\tn01", r"line 1 names .*val_9.JPEG, which is not there"),
        ("../../train/n01/images/n01_0.JPEG\tn01", "which is not there"),
        ("val_0.JPEG\tn77", "line 1: 'n77' is not one of the classes"),
        ("val_0.JPEG", "line 1: '' is not one of the classes"),
    ],
)
def test_bad_annotations(tiny, line, message):
    (tiny / "tiny-imagenet-200/val/val_annotations.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        load("tiny-imagenet", tiny)


def test_annotations_that_are_no_text(tiny):
    (tiny / "tiny-imagenet-200/val/val_annotations.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val_annotations.txt: cannot be read \(.*utf-8"):
        load("tiny-imagenet", tiny)


def test_imagenet_cuts_as_papers_do(root):
    images = load("imagenet", root, workers=0)
    assert images.shape == (3, 224, 224)
    assert images.train.source.fit == Fit(224, 256, random_crop=True)
    assert (images.train.recipe.padding, images.train.recipe.flip) == (0, False)
    [(x, _)] = images.train.batches(9, train=True)
    assert x.shape == (9, 3, 224, 224)


def test_centre_of_a_resized_picture():
    picture = Image.new("RGB", (500, 375))
    picture.putpixel((250, 187), (255, 255, 255))
    cut = centre(picture, Fit(224, 256))
    assert cut.size == (224, 224)
    row, column = np.argwhere(np.asarray(cut)[..., 0] == np.asarray(cut)[..., 0].max())[0]
    assert abs(row - 112) <= 1
    assert abs(column - 112) <= 1


@pytest.mark.parametrize("size", [(500, 375), (1, 1), (1, 400), (400, 1), (7, 7)], ids=str)
def test_random_boxes_lie_inside(size):
    for seed in range(200):
        left, top, right, bottom = random_box(*size, Random(seed))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_random_boxes_keep_8_to_100_percent():
    boxes = [random_box(400, 400, Random(seed)) for seed in range(500)]
    shares = [(r - x) * (b - y) / 400**2 for x, y, r, b in boxes]
    assert 0.075 < min(shares) < 0.12
    assert 0.9 < max(shares) <= 1


def test_missing_or_empty_folders(root):
    (root / "train/elk").mkdir()
    with pytest.raises(DataError, match=r"elk: needs images \(.jpg .* found none"):
        load("folder", root)
    (root / "train/elk").rename(root / "val/elk")
    with pytest.raises(DataError, match="elk: not one of the 2 classes in train/"):
        load("folder", root)
    (root / "val").rename(root / "other")
    with pytest.raises(DataError, match="needs val/CLASS/ or test/CLASS/ with images"):
        load("folder", root)
    with pytest.raises(DataError, match="no such folder; needs train/CLASS/"):
        load("folder", root / "other")
    (root / "other/train").mkdir()
    with pytest.raises(DataError, match="needs a folder for each class, found none"):
        load("folder", root / "other")
