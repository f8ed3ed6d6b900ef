import pytest
import torch

from sparsetrain.data import load
from sparsetrain.data.digits import enlarge


@pytest.fixture(scope="module")
def images():
    return load("digits")


def test_split_is_fixed_and_keeps_the_share_of_classes(images):
    assert (len(images.train), len(images.test)) == (1437, 360)
    assert images.test.labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert torch.equal(load("digits").test.labels, images.test.labels)


def test_describes_itself(images):
    assert (images.name, images.shape, images.note) == ("digits", (3, 32, 32), "")
    assert images.classes == tuple("0123456789")


def test_mean_and_std_are_those_of_the_training_images(images):
    x = torch.cat([x for x, _ in images.train.batches(500, train=False)])
    assert x.shape == (1437, 3, 32, 32)
    torch.testing.assert_close(x.mean(), torch.tensor(0.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(x.std(), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_channels_are_equal(images):
    x, _ = images.train.sample(8)
    assert torch.equal(x[:, 0], x[:, 1])
    assert torch.equal(x[:, 0], x[:, 2])


def test_never_mirrored(images):
    [(x, y)] = images.train.batches(2000, train=True)
    [(plain, labels)] = images.train.batches(2000, train=False)
    # What was shifted alone is still a window of a padded image.
    black = plain.min()
    padded = torch.nn.functional.pad(plain, (4,) * 4, value=black.item())
    shifts = padded.unfold(2, 32, 1).unfold(3, 32, 1)  # [N, 3, 9, 9, 32, 32]
    for image, label in zip(x[:20, 0], y[:20], strict=True):
        same = shifts[labels == label, 0]
        assert (same == image).flatten(-2).all(-1).any()


def test_enlarging_keeps_black_white_and_flat():
    grey = torch.tensor([0.0, 8.0, 16.0]).view(3, 1, 1).expand(3, 8, 8)
    assert [x.unique().tolist() for x in enlarge(grey)] == [[0], [128], [255]]
