"""All passes, in their order."""

from torch import Tensor

from sparsetrain.engine.lower.passes.edit import sweep
from sparsetrain_runtime.program import Program


def simplify(program: Program, tensors: dict[str, Tensor]) -> None:
    """Make a program shorter, in place."""
    sweep(program, tensors)
