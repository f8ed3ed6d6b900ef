"""The 1,797 handwritten digits that come with scikit-learn: a data set without a download.

Images of 8x8 in 17 greys, shown at 32x32 in three equal channels so that the networks made for
CIFAR take them as they are. One fixed split keeps the share of every class: 1,437 images to
train on, 360 to test on. They are never mirrored: a mirrored digit is another sign, or none.

Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.data.images import Images, InMemory, Recipe, Split

SIZE = 32
TEST = 360


def digits() -> Images:
    from sklearn.datasets import load_digits  # takes a second to import, so only when asked
    from sklearn.model_selection import train_test_split

    grey, target = load_digits(return_X_y=True)  # float64 [1797, 64] in 0-16, int64 [1797]
    pixels, labels = enlarge(torch.from_numpy(grey).view(-1, 8, 8)), torch.from_numpy(target)
    halves = train_test_split(range(len(target)), test_size=TEST, stratify=target, random_state=0)
    train, test = map(torch.tensor, halves)
    recipe = Recipe(torch.full((3,), 0.3054), torch.full((3,), 0.3237), flip=False)

    def split(index: Tensor) -> Split:
        return Split(InMemory(pixels[index]), labels[index], recipe)

    return Images(
        name="digits",
        classes=tuple("0123456789"),
        shape=(3, SIZE, SIZE),
        mean=recipe.mean,
        std=recipe.std,
        train=split(train),
        test=split(test),
    )


def enlarge(grey: Tensor) -> Tensor:
    """`[N, 8, 8]` of 0-16 to uint8 `[N, 3, 32, 32]` of 0-255, bilinear."""
    large = F.interpolate(grey[:, None].float() * (255 / 16), size=SIZE, mode="bilinear")
    return large.round().to(torch.uint8).repeat(1, 3, 1, 1)
