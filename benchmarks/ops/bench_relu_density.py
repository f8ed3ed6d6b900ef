"""relu_density against a ReLU and a count beside it, with the ReLU alone as the floor."""

import torch

from sparsetrain.measure.timing import Case, main
from sparsetrain.ops import relu_density, relu_density_reference

SHAPES = {"resnet50 conv2": (16, 256, 56, 56), "resnet50 conv5": (16, 512, 7, 7)}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def case(shape: str, layout: str, dtype: torch.dtype, device: str) -> Case:
    x = torch.randn(SHAPES[shape], device=device).to(dtype)
    x = x.contiguous(memory_format=LAYOUTS[layout])

    def counted() -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(x)
        return y, y.count_nonzero(dim=(0, 2, 3))

    run = {
        "sparsetrain": lambda: relu_density(x),
        "relu+count": counted,
        "reference": lambda: relu_density_reference(x),
        "relu alone": lambda: torch.relu(x),
    }
    name = f"{shape} {layout} {str(dtype).removeprefix('torch.')}"
    return Case(name, run, bytes_moved=2 * x.nbytes, floor=("relu alone",))


def cases(device: str) -> list[Case]:
    dtypes = (torch.float32, torch.bfloat16)
    return [case(s, lay, d, device) for s in SHAPES for lay in LAYOUTS for d in dtypes]


if __name__ == "__main__":
    main(cases)
