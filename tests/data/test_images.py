import pytest
import torch

from sparsetrain.data import DataError, Split, load, names
from sparsetrain.data.augment import crop_and_flip, windows
from sparsetrain.data.images import InMemory, Recipe
from sparsetrain.support.chance import random_stream

MEAN, STD = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.5, 0.25, 1.0])


def split_of(n: int, size: int = 8, padding: int = 4, flip: bool = True) -> Split:
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
    return Split(InMemory(pixels), torch.arange(n), Recipe(MEAN, STD, padding, flip))


def equal(ours, theirs) -> bool:
    ours, theirs = list(ours), list(theirs)
    return len(ours) == len(theirs) and all(
        torch.equal(a, b)
        for x, y in zip(ours, theirs, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def naive_window(image, size, top, left, mirror):
    cut = image[:, top : top + size, left : left + size]
    return cut.flip(-1) if mirror else cut


def test_test_batches_are_in_order_and_whole():
    split = split_of(7)
    images, labels = zip(*split.batches(3, train=False), strict=True)
    assert [len(x) for x in images] == [3, 3, 1]
    assert torch.cat(labels).tolist() == list(range(7))


def test_normalisation_worked_by_hand(device):
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    split = Split(InMemory(pixels), torch.tensor([5]), Recipe(MEAN, STD))
    [(x, y)] = split.batches(1, train=False, device=device)
    assert x.device.type == y.device.type == device
    assert (x.dtype, y.dtype, y.item()) == (torch.float32, torch.int64, 5)
    wanted = torch.tensor([-1.0, (0.2 - 0.25) / 0.25, 0.875])
    torch.testing.assert_close(x.flatten().cpu(), wanted)


def test_each_epoch_sees_each_image_once_in_its_own_order():
    split = split_of(20)
    orders = [
        torch.cat([y for _, y in split.batches(6, train=True, seed=seed, epoch=epoch)]).tolist()
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_batches_depend_on_seed_and_epoch_alone():
    split = split_of(20)
    first = list(split.batches(6, train=True, seed=3, epoch=2))
    state = torch.get_rng_state()
    assert equal(split.batches(6, train=True, seed=3, epoch=2), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_start_resumes_bit_for_bit(start):
    split = split_of(20)
    whole = list(split.batches(6, train=True, seed=1, epoch=4))
    assert equal(split.batches(6, train=True, seed=1, epoch=4, start=start), whole[start:])


@pytest.mark.parametrize(
    ("n", "batch_size", "train", "sizes"),
    [
        (7, 3, True, [3, 3]),  # one image left over: batch norm cannot use it
        (7, 3, False, [3, 3, 1]),
        (8, 3, True, [3, 3, 2]),
        (6, 3, True, [3, 3]),
        (3, 1, True, [1, 1, 1]),  # asked for
        (3, 9, True, [3]),
    ],
)
def test_last_batch(n, batch_size, train, sizes):
    split = split_of(n)
    assert [len(y) for _, y in split.batches(batch_size, train=train)] == sizes
    assert split.steps(batch_size, train=train) == len(sizes)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_windows_equal_one_image_at_a_time(size, device):
    pixels = torch.randint(0, 256, (65, 3, size + 8, size + 8), dtype=torch.uint8, device=device)
    top, left = torch.randint(0, 9, (2, 65), device=device)
    mirror = torch.rand(65, device=device) < 0.5
    naive = [naive_window(x, size, *w) for x, *w in zip(pixels, top, left, mirror, strict=True)]
    assert torch.equal(windows(pixels, size, top, left, mirror), torch.stack(naive))


def test_crops_shift_every_way_and_bring_in_black():
    pixels = torch.full((999, 3, 4, 4), 255, dtype=torch.uint8)
    cut = crop_and_flip(pixels, 4, False, random_stream(0))
    rows, columns = cut[:, 0].amax(2) > 0, cut[:, 0].amax(1) > 0
    assert set(rows.sum(1).tolist()) == set(columns.sum(1).tolist()) == {0, 1, 2, 3, 4}
    assert set(cut.unique().tolist()) == {0, 255}


def test_each_batch_is_shifted_in_its_own_way():
    one = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    split = Split(InMemory(one.expand(18, -1, -1, -1)), torch.zeros(18), Recipe(MEAN, STD))
    first, second, third = (x for x, _ in split.batches(6, train=True))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_half_of_the_images_are_mirrored():
    pixels = torch.arange(4, dtype=torch.uint8).expand(999, 3, 4, 4)
    mirrored = (crop_and_flip(pixels, 0, True, random_stream(0))[:, 0, 0, 0] == 3).sum().item()
    assert 450 < mirrored < 550


def test_no_padding_and_no_flip_change_nothing():
    split = split_of(6, padding=0, flip=False)
    [(x, y)] = split.batches(6, train=True)
    [(plain, _)] = split.batches(6, train=False)
    assert torch.equal(x, plain[y])


def test_channels_last_holds_the_same_numbers():
    split = split_of(6)
    [(x, _)] = split.batches(6, train=True, channels_last=True)
    assert x.is_contiguous(memory_format=torch.channels_last)
    [(y, _)] = split.batches(6, train=True)
    assert y.is_contiguous()
    assert torch.equal(x, y)


def test_sample_is_mixed_and_plain():
    split = split_of(20)
    x, y = split.sample(20, seed=1)
    assert y.tolist() != list(range(20))
    [(plain, _)] = split.batches(20, train=False)
    assert torch.equal(x, plain[y])
    assert equal([split.sample(5, seed=1)], [(x[:5], y[:5])])


def test_bad_arguments():
    split = split_of(7)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        split.batches(0, train=True)
    with pytest.raises(ValueError, match="need 0 <= start <= 2 batches, got start=3"):
        split.batches(3, train=True, start=3)
    with pytest.raises(ValueError, match="need 1 <= n <= 7 images, got n=8"):
        split.sample(8)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"no data set 'cifar-10', did you mean 'cifar10'\?"):
        load("cifar-10")
    with pytest.raises(ValueError, match="There are digits, cifar10"):
        load("zzz")


@pytest.mark.parametrize("name", [name for name in names() if name != "digits"])
def test_missing_folder_says_what_is_needed(name, tmp_path):
    with pytest.raises(DataError, match=f"{name} needs --data-dir DIR, a folder that holds"):
        load(name)
    with pytest.raises(DataError, match=f"is no folder; {name} needs"):
        load(name, tmp_path / "none")


def test_bad_size_and_workers(tmp_path):
    with pytest.raises(ValueError, match="digits has one size, got size=64"):
        load("digits", size=64)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        load("folder", tmp_path, size=0)
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        load("folder", tmp_path, workers=-1)
