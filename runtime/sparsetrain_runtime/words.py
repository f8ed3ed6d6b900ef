"""Steps as the engine reads them: words of 64 bits, see csrc/engine/program.h."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsetrain_runtime.library import operations
from sparsetrain_runtime.views import BYTES, REGIONS, View

MAGIC, VERSION = 0x73706172736574, 1
DTYPES = ("float32", "int64", "bool", "int32", "uint16")


@dataclass(frozen=True)
class Step:
    """One operation on views, with its numbers; a float stays a float.

    Attributes:
        op: number of the program's operation that it is part of; -1: of none.
        place: of that operation in the user's code.
    """

    operation: str
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    attributes: tuple[int | float, ...] = ()
    op: int = -1
    place: str = ""


def encoded(
    steps: Sequence[Step], arena: int, constants: int, inputs: Sequence[int], outputs: Sequence[int]
) -> np.ndarray:
    """The program; `inputs` and `outputs` are bytes of each."""
    words = [MAGIC, VERSION, arena, constants, len(inputs), len(outputs), *inputs, *outputs]
    words.append(len(steps))
    for step in steps:
        words += [operations()[step.operation], len(step.inputs), len(step.outputs)]
        words.append(len(step.attributes))
        for view in (*step.inputs, *step.outputs):
            words += _operand(view)
        words += [_word(number) for number in step.attributes]
    return np.array(words, np.int64)


def _operand(view: View) -> list[int]:
    buffer = view.buffer
    byte = buffer.byte + view.offset * BYTES[buffer.dtype]
    place = [REGIONS.index(buffer.region), buffer.index, byte, DTYPES.index(buffer.dtype)]
    return [*place, view.rank, *view.shape, *view.strides]


def _word(number: int | float) -> int:
    if isinstance(number, float):
        return struct.unpack("<q", struct.pack("<d", number))[0]
    return int(number)
