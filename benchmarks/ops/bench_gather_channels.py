"""gather_channels against indexing tensor by tensor: a weight, its gradient, AdamW's two moments
and a mask, with half of the rows and of the columns kept.
"""

import torch

from sparsetrain.bench.timing import Case, main
from sparsetrain.ops import gather_channels

SHAPES = {"conv 512x512x3x3": (512, 512, 3, 3), "linear 4096x1024": (4096, 1024)}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def case(name: str, layout: str, device: str) -> Case:
    shape = SHAPES[name]
    each = [torch.randn(shape, device=device) for _ in range(4)]
    each.append(torch.rand(shape, device=device) < 0.5)
    each = [t.contiguous(memory_format=LAYOUTS[layout]) for t in each]
    rows, cols = (torch.randperm(n, device=device)[: n // 2].sort().values for n in shape[:2])
    run = {
        "sparsetrain": lambda: gather_channels(each, rows, cols),
        "t[rows][:, cols]": lambda: [t[rows][:, cols] for t in each],
        "index_select": lambda: [t.index_select(0, rows).index_select(1, cols) for t in each],
    }
    return Case(f"{name} {layout}", run, bytes_moved=2 * sum(t.nbytes for t in each) // 4)


def cases(device: str) -> list[Case]:
    return [
        case(name, layout, device)
        for name, shape in SHAPES.items()
        for layout in LAYOUTS
        if layout == "nchw" or len(shape) == 4
    ]


if __name__ == "__main__":
    main(cases)
