"""Whether what was exported computes what the network does.

Floats may differ by rounding: by less than the tolerance of their dtype, relative to the largest
entry; all else is equal, and so is what is infinite or NaN.
"""

import torch
from torch import Tensor

from sparsetrain.checkpoint.witness import TOLERANCE


def disagreement(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """What is wrong with the outputs found, or nothing."""
    if found.keys() != wanted.keys():
        return f"it has the outputs {', '.join(found)} in place of {', '.join(wanted)}"
    return next((why for n, t in wanted.items() if (why := _wrong(n, found[n], t))), "")


def reason(error: BaseException) -> str:
    """The first line of what an error says, cut short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _wrong(name: str, found: Tensor, wanted: Tensor) -> str:
    found, wanted, dtype = found.detach().cpu(), wanted.detach().cpu(), wanted.dtype
    if found.shape != wanted.shape or found.dtype != dtype:
        ours, theirs = (f"{list(t.shape)} {t.dtype}" for t in (found, wanted))
        return f"{name} is {ours} in place of {theirs}"
    if dtype not in TOLERANCE:
        return "" if torch.equal(found, wanted) else f"{name} differs"
    found, wanted = found.double(), wanted.double()
    finite = wanted.isfinite()
    if not _equal(found[~finite], wanted[~finite]) or not found[finite].isfinite().all():
        return f"{name} is infinite or NaN in other places"
    error = _largest(found[finite] - wanted[finite]) / (_largest(wanted[finite]) or 1.0)
    return "" if error <= TOLERANCE[dtype] else f"{name} is off by {error:.1e} of its largest"


def _equal(found: Tensor, wanted: Tensor) -> bool:
    """With NaN in the same places."""
    return bool(((found == wanted) | (found.isnan() & wanted.isnan())).all())


def _largest(numbers: Tensor) -> float:
    return float(numbers.abs().max()) if numbers.numel() else 0.0
