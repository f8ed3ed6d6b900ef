"""One operation of the engine on torch's tensors, whatever their strides."""

import struct
from collections.abc import Sequence

import numpy as np
import torch

from sparsetrain_runtime.library import Desks, Session, operations

MAGIC, VERSION = 0x73706172736574, 1
INPUT, OUTPUT = 2, 3
DTYPES = {torch.float32: 0, torch.int64: 1, torch.bool: 2}


def call(
    name: str,
    inputs: Sequence[torch.Tensor],
    output: torch.Tensor,
    attributes: Sequence[int | float] = (),
    threads: int = 2,
) -> torch.Tensor:
    """Compute `output`, which may be one of the inputs; memory beside it must stay as it is."""
    memories = [_memory(x) for x in inputs]
    memory, before = _memory(output), _memory(output).copy()
    words = [MAGIC, VERSION, 0, 0, len(inputs), 1, *(m.nbytes for m in memories), memory.nbytes, 1]
    words += [operations()[name], len(inputs), 1, len(attributes)]
    for i, x in enumerate(inputs):
        words += _operand(x, OUTPUT if x is output else INPUT, 0 if x is output else i)
    words += _operand(output, OUTPUT, 0) + [_word(a) for a in attributes]
    Session(np.array(words, np.int64), [], Desks(threads)).run(memories, [memory])
    beside = torch.ones(memory.nbytes // output.element_size(), dtype=torch.bool)
    beside.as_strided(output.shape, output.stride(), output.storage_offset()).fill_(False)
    wide = beside.repeat_interleave(output.element_size()).numpy()
    assert np.array_equal(memory[wide], before[wide]), f"{name} wrote beside its output"
    return output


def laid(x: torch.Tensor, order: Sequence[int] | None = None, gap: int = 0) -> torch.Tensor:
    """The same numbers with axes in `order` in memory, outermost first, and gaps between lines."""
    order = tuple(range(x.dim())) if order is None else tuple(order)
    moved = x.permute(order)
    spaced = moved.new_full([n + gap for n in moved.shape], _poison(x.dtype))
    inside = spaced[tuple(slice(gap // 2, gap // 2 + n) for n in moved.shape)]
    inside.copy_(moved)
    return inside.permute([order.index(a) for a in range(x.dim())])


def empty(
    shape: Sequence[int],
    order: Sequence[int] | None = None,
    gap: int = 0,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Memory for a result, full of what no result is."""
    return laid(torch.full(tuple(shape), _poison(dtype), dtype=dtype), order, gap)


def _poison(dtype: torch.dtype) -> float | int | bool:
    return {torch.float32: float("nan"), torch.int64: -77, torch.bool: True}[dtype]


def _memory(x: torch.Tensor) -> np.ndarray:
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage()).numpy()


def _operand(x: torch.Tensor, region: int, index: int) -> list[int]:
    byte = x.storage_offset() * x.element_size()
    return [region, index, byte, DTYPES[x.dtype], x.dim(), *x.shape, *x.stride()]


def _word(number: int | float) -> int:
    if isinstance(number, float):
        return struct.unpack("<q", struct.pack("<d", number))[0]
    return int(number)
