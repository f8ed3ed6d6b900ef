"""nm_mask_transposable against the same search in plain PyTorch, and against 2:4 one way."""

import torch

from sparsetrain.measure.timing import Case, main
from sparsetrain.ops import nm_mask, nm_mask_transposable, nm_mask_transposable_reference

SHAPES = {"1024x1024": (1024, 1024), "vit-b mlp": (3072, 768)}


def case(name: str, device: str) -> Case:
    score = torch.rand(SHAPES[name], device=device)
    run = {
        "sparsetrain": lambda: nm_mask_transposable(score),
        "reference": lambda: nm_mask_transposable_reference(score),
        "one way": lambda: nm_mask(score, 2, 4),
    }
    bytes_moved = score.nbytes + score.numel()
    return Case(name, run, bytes_moved=bytes_moved, floor=("one way",))


def cases(device: str) -> list[Case]:
    return [case(name, device) for name in SHAPES]


if __name__ == "__main__":
    main(cases)
