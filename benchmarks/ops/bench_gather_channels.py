"""gather_channels against indexing tensor by tensor, half of the rows and of the columns kept:
a weight, its gradient, AdamW's two moments and a mask; and so for all layers of VGG-19 at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsetrain import models
from sparsetrain.measure.timing import Case, main
from sparsetrain.ops import gather_channels

SHAPES = {"conv 512x512x3x3": (512, 512, 3, 3), "linear 4096x1024": (4096, 1024)}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
Layer = tuple[list[Tensor], Tensor | None, Tensor | None]  # tensors of a shape, rows, cols


def half(size: int, device: str) -> Tensor:
    return torch.randperm(size, device=device)[: (size + 1) // 2].sort().values


def layer(shape: Sequence[int], layout: str, device: str) -> Layer:
    each = [torch.randn(shape, device=device) for _ in range(4)]
    each.append(torch.rand(shape, device=device) < 0.5)
    if len(shape) == 4:
        each = [t.contiguous(memory_format=LAYOUTS[layout]) for t in each]
    rows, cols, *_ = [*(half(n, device) for n in shape), None]
    return each, rows, cols


def index(t: Tensor, rows: Tensor | None, cols: Tensor | None) -> Tensor:
    t = t if rows is None else t[rows]
    return t if cols is None else t[:, cols]


def index_select(t: Tensor, rows: Tensor | None, cols: Tensor | None) -> Tensor:
    t = t if rows is None else t.index_select(0, rows)
    return t if cols is None else t.index_select(1, cols)


def case(name: str, layers: list[Layer]) -> Case:
    tensors = [t for each, *_ in layers for t in each]
    rows = [rows for each, rows, _ in layers for _ in each]
    cols = [cols for each, _, cols in layers for _ in each]
    run: dict[str, Callable[[], Any]] = {
        "sparsetrain": lambda: gather_channels(tensors, rows, cols, check=False),
        "t[rows][:, cols]": lambda: list(map(index, tensors, rows, cols)),
        "index_select": lambda: list(map(index_select, tensors, rows, cols)),
    }
    if len(layers) > 1:
        run["a call a layer"] = lambda: [
            t for layer in layers for t in gather_channels(*layer, check=False)
        ]
    kept = gather_channels(tensors, rows, cols)
    return Case(name, run, bytes_moved=2 * sum(t.nbytes for t in kept))


def cases(device: str) -> list[Case]:
    made = [
        case(f"{name} {layout}", [layer(shape, layout, device)])
        for name, shape in SHAPES.items()
        for layout in LAYOUTS
        if layout == "nchw" or len(shape) == 4
    ]
    shapes = [tuple(p.shape) for p in models.build("vgg19", classes=10).parameters()]
    for layout in LAYOUTS:
        made.append(case(f"VGG-19 {layout}", [layer(shape, layout, device) for shape in shapes]))
    return made


if __name__ == "__main__":
    main(cases)
