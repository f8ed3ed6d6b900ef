"""Gradients of a loss, and nothing else changed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction


def gradients(
    loss: Callable[[], Tensor], wanted: Sequence[Tensor], model: nn.Module
) -> list[Tensor | None]:
    """d loss() / d wanted, None where it does not depend on a tensor; no `.grad` changes.

    A model may hold functions that call backward themselves, as reentrant checkpoints do. These
    refuse to be asked for some gradients alone, or hide what they depend on. Then `loss` is called
    again, and all gradients are computed.
    """
    value = loss()
    if not wanted:
        return []
    try:
        found: list[Tensor | None] = [*torch.autograd.grad(value, wanted, allow_unused=True)]
        if all(g is not None for g in found) or not _written_in_python(value):
            return found
    except RuntimeError:
        if not _written_in_python(value):
            raise
    value = loss()
    with _unaccumulated([*wanted, *model.parameters()]):
        value.backward()
        return [tensor.grad for tensor in wanted]


def _written_in_python(value: Tensor) -> bool:
    """Whether a function of `torch.autograd.Function` is among those that made it."""
    left, seen = [value.grad_fn], set()
    while left:
        node = left.pop()
        if isinstance(node, BackwardCFunction):
            return True
        if node is not None and node not in seen:
            seen.add(node)
            left += [before for before, _ in node.next_functions]
    return False


@contextmanager
def _unaccumulated(leaves: Sequence[Tensor]) -> Iterator[None]:
    """Without gradients from before, nor what is called when one arrives: optimizers among it."""
    each = {id(leaf): leaf for leaf in leaves if leaf.is_leaf}.values()
    before = [(leaf, leaf.grad, dict(leaf._post_accumulate_grad_hooks or {})) for leaf in each]
    try:
        for leaf, _, hooks in before:
            leaf.grad = None
            if hooks:
                leaf._post_accumulate_grad_hooks.clear()
        yield
    finally:
        for leaf, gradient, hooks in before:
            leaf.grad = gradient
            if hooks:
                leaf._post_accumulate_grad_hooks.update(hooks)
