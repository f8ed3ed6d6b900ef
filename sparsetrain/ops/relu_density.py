r"""ReLU that also counts, in the same pass, what it lets through.

    y = x where x > 0, else 0                 count[c] = #{ n, i : y[n, c, i] != 0 }

NaN stays NaN, as in torch.relu, and counts as non-zero. The gradient is that of torch.relu:
dx = dy where y > 0, else 0; only y is saved for it. count / (elements per channel) is a channel's
activation density, one minus its APoZ: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning
Approach towards Efficient Deep Architectures", 2016, arXiv:1607.03250.

    CPU   csrc/relu_density.h, csrc/torch/relu_density.cpp
    CUDA  kernels/relu_density.py
"""

import torch
from torch import Tensor

from sparsetrain.ops.direct import CHANNELS_LAST, fake, in_memory
from sparsetrain.ops.dtypes import DTYPES

torch.library.define("sparsetrain::relu_density", "(Tensor x) -> (Tensor y, Tensor count)")
_relu_density = torch.ops.sparsetrain.relu_density.default


def relu_density(x: Tensor) -> tuple[Tensor, Tensor]:
    """ReLU, and the number of non-zero outputs of each channel.

    Args:
        x: `[N, C, ...]` fp32, fp64, bf16 or fp16; any strides, fastest if contiguous or
            channels_last.

    Returns:
        y: `[N, C, ...]` of x's dtype, channels_last where x is, else contiguous.
        count: `[C]` int64, not differentiable.

    Raises:
        ValueError: x has no channel axis.
        TypeError: x's dtype is not supported.
    """
    _check(x)
    return _relu_density(_dense(x))


def relu_density_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """What relu_density must equal, in plain PyTorch."""
    y = torch.relu(x)
    return y, y.detach().transpose(0, 1).flatten(1).count_nonzero(dim=1)


@fake("relu_density")
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[1], dtype=torch.int64)


def _save_output(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[0])


def _backward(ctx, dy: Tensor, _dcount: Tensor) -> Tensor:
    (y,) = ctx.saved_tensors
    return torch.ops.aten.threshold_backward.default(dy, y, 0)


torch.library.register_autograd("sparsetrain::relu_density", _backward, setup_context=_save_output)


@torch.library.impl("sparsetrain::relu_density", "CUDA")
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    from sparsetrain.kernels.relu_density import relu_density  # needs Triton, so only when asked

    _check(x)
    in_memory("relu_density", "x", x, channels_last=True)
    return relu_density(x)


def _check(x: Tensor) -> None:
    if x.dim() < 2:
        raise ValueError(f"relu_density: x must be [N, C, ...], got shape {tuple(x.shape)}")
    if x.dtype not in DTYPES:
        raise TypeError(f"relu_density: x must be fp32, fp64, bf16 or fp16, got {x.dtype}")


def _dense(x: Tensor) -> Tensor:
    """x itself where the kernels know its layout, else a contiguous copy."""
    if x.is_contiguous():
        return x
    layout = CHANNELS_LAST.get(x.dim())
    known = layout is not None and x.is_contiguous(memory_format=layout)
    return x if known else x.contiguous()
