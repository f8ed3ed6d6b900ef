"""nm_mask against its reference and what a user would write, on the weights of common layers.

Scores are distinct, since torch.topk leaves the order of equal scores open.
"""

import torch
from torch import Tensor

from sparsetrain.measure.timing import Case, main
from sparsetrain.ops import nm_mask, nm_mask_reference

LAYERS = {"resnet50 layer4 3x3": (512, 4608), "vit-b mlp": (3072, 768)}
PATTERNS = ((2, 4), (4, 8), (1, 16), (8, 32))


def by_topk(score: Tensor, n: int, m: int) -> Tensor:
    groups = score.view(-1, m)
    winners = groups.topk(n, dim=1, sorted=False).indices
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, winners, True)
    return keep.view(score.shape)


def case(layer: str, n: int, m: int, device: str) -> Case:
    shape = LAYERS[layer]
    score = torch.randperm(shape[0] * shape[1], device=device).float().view(shape)
    run = {
        "sparsetrain": lambda: nm_mask(score, n, m),
        "topk+scatter": lambda: by_topk(score, n, m),
        "reference": lambda: nm_mask_reference(score, n, m),
    }
    return Case(f"{layer} {n}:{m}", run, bytes_moved=score.nbytes + score.numel())


def cases(device: str) -> list[Case]:
    return [case(layer, n, m, device) for layer in LAYERS for n, m in PATTERNS]


if __name__ == "__main__":
    main(cases)
