"""channel_scores against two reductions in plain PyTorch, in fp32 and as exact as ours.

The sums of "fp32" differ in their last bits, so it is asked for its time only.
"""

import torch
from torch import Tensor

from sparsetrain.measure.timing import Case, main
from sparsetrain.ops import channel_scores, channel_scores_reference

SHAPES = {"conv 512x512x3x3": (512, 512, 3, 3), "linear 4096x1024": (4096, 1024)}


def in_fp32(weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    terms = (weight * grad).abs()
    return terms.flatten(1).sum(1), terms.sum((0, *range(2, terms.dim())))


def case(name: str, layout: torch.memory_format, device: str) -> Case:
    weight, grad = (
        torch.randn(SHAPES[name], device=device).contiguous(memory_format=layout) for _ in range(2)
    )
    run = {
        "sparsetrain": lambda: channel_scores(weight, grad, "snip"),
        "fp64 sums": lambda: channel_scores_reference(weight, grad, "snip"),
        "fp32": lambda: in_fp32(weight, grad),
    }
    last = " nhwc" if layout is torch.channels_last else ""
    return Case(f"{name}{last}", run, bytes_moved=2 * weight.nbytes, floor=("fp32",))


def cases(device: str) -> list[Case]:
    linear, conv = "linear 4096x1024", "conv 512x512x3x3"
    layouts = (torch.contiguous_format, torch.channels_last)
    first = case(linear, layouts[0], device)
    return [first, *(case(conv, layout, device) for layout in layouts)]


if __name__ == "__main__":
    main(cases)
