"""A tensor of the recorded call while it is turned into values of a program.

It is a constant, with its numbers at each of the recorded batches, or a value that operations make.
A view remembers what it is a view of, and is made anew after that was changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsetrain.engine.lower.sizes import Sizes
from sparsetrain.engine.lower.undeployable import Refused

if TYPE_CHECKING:
    from sparsetrain.engine.lower.steps import Call

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = {torch.bool: "bool"} | dict.fromkeys(FLOATS, "float32")
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def dtype_of(dtype: torch.dtype) -> str:
    """The engine's dtype for a tensor inside a network: whole numbers have one, floats have one.

    Raises:
        Refused: it has none.
    """
    found = "int64" if dtype in WHOLE else DTYPES.get(dtype)
    if found is None:
        raise Refused(f"makes {dtype}, which is no dtype of the engine")
    return found


@dataclass(eq=False)
class Item:
    """One tensor.

    Attributes:
        shape: with (a, b) for a * batch + b.
        strides: as recorded, where it is not a view that is made anew.
        data: of a constant: its numbers at each recorded batch.
        number: of the value in the program, else.
        source: what it is a view of, and the call that makes it: its `part`-th result.
        version: counts its changes; `seen` is that of the source when it was made.
        missing: why neither is there: no operation makes it.
    """

    shape: Sizes
    dtype: torch.dtype
    strides: tuple[int, ...] = ()
    data: list[Tensor] | None = None
    number: int | None = None
    source: Item | None = None
    call: Call | None = field(default=None, repr=False)
    part: int = 0
    version: int = 0
    seen: int = 0
    missing: str | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def constant(self) -> bool:
        return self.data is not None

    @property
    def fixed(self) -> Tensor | None:
        """The numbers of a constant that are the same with every batch; None: it is no such."""
        if self.data is None:
            return None
        first, *others = self.data
        same = all(first.shape == o.shape and _equal(first, o) for o in others)
        return first if same else None

    @property
    def scalar(self) -> float | int | bool | None:
        """The one number of such a constant."""
        fixed = self.fixed
        return fixed.item() if fixed is not None and fixed.numel() == 1 else None


def _equal(a: Tensor, b: Tensor) -> bool:
    """NaN is equal to itself here."""
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, 0, 0, True))
