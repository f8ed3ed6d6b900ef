"""Ops with gradients, for calls that cost more than their kernel.

An op's gradients by torch.library.register_autograd put Python before every kernel, also where no
gradient is wanted: with to_blocked of a few numbers 10 us a call, and 135 us forward and backward.
A torch.autograd.Function adds nothing to the first and makes 100 us of the second.
"""

from collections.abc import Callable
from typing import Any

import torch

Save = Callable[[Any, tuple[Any, ...], Any], None]


def differentiable(
    op: Callable[..., Any], save: Save, backward_: Callable[..., Any]
) -> Callable[..., Any]:
    """The op, differentiable.

    Args:
        save: of a context, the arguments and the output: keeps what backward needs. Of several
            outputs it marks all but the first as not differentiable.
        backward_: of the context and the outputs' gradients, those of all arguments; of outputs
            that are not differentiable they are None.
    """

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):  # pyright: ignore[reportIncompatibleMethodOverride]
            ctx.set_materialize_grads(False)
            output = op(*args)
            save(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx, dy, *others):  # pyright: ignore[reportIncompatibleMethodOverride]
            if dy is None:
                return (None,) * len(ctx.needs_input_grad)
            return backward_(ctx, dy, *others)

    def call(*args: Any) -> Any:
        return Differentiable.apply(*args) if torch.is_grad_enabled() else op(*args)

    return call
