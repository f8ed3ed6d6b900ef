"""What kernels in Python ask of their tensors, as ops can be called without the functions here."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by number of axes


def fake(op: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the kernel of fake tensors for torch.ops.sparsetrain's `op`, with a check before it.

    PyTorch's dispatcher lets None pass for a tensor, to kernels in Python: that is a TypeError.
    """
    arguments = getattr(torch.ops.sparsetrain, op).default._schema.arguments
    names = [argument.name for argument in arguments]
    tensors = {a.name for a in arguments if isinstance(a.type, torch.TensorType)}

    def register(kernel: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(kernel)
        def checked(*args: Any, **named: Any) -> Any:
            for name, value in (*zip(names, args, strict=False), *named.items()):
                if value is None and name in tensors:
                    raise TypeError(f"{op}: {name} must be a tensor, got None")
            return kernel(*args, **named)

        torch.library.register_fake(f"sparsetrain::{op}", checked)
        return checked

    return register


def one_device(op: str, *tensors: Tensor | None) -> None:
    """Raise unless all tensors are on one device; for the kernels of fake tensors.

    Of tensors on the CPU and on "meta" PyTorch's dispatcher calls the meta kernel, which computes
    nothing.

    Raises:
        ValueError: two devices differ.
    """
    devices = [t.device for t in tensors if t is not None]
    for device in devices:
        if device != devices[0]:
            raise ValueError(f"{op}: tensors must be on one device, got {devices[0]} and {device}")


def in_memory(op: str, name: str, t: Tensor, channels_last: bool = False) -> None:
    """Raise unless t is contiguous, or channels_last where that is as good, and has its memory.

    Raises:
        ValueError: it is not.
    """
    layout = CHANNELS_LAST.get(t.dim()) if channels_last else None
    last = layout is not None and t.is_contiguous(memory_format=layout)
    if not (t.is_contiguous() or last):
        wanted = "contiguous or channels_last" if channels_last else "contiguous"
        raise ValueError(f"{op}: {name} must be {wanted}, got strides {t.stride()}")
    needed = (t.storage_offset() + t.numel()) * t.element_size()
    there = t.untyped_storage().nbytes()
    if t.numel() and needed > there:
        raise ValueError(f"{op}: {name} needs {needed} bytes of memory, its storage has {there}")
