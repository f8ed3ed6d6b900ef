"""The optimizer's tensors that belong to a parameter entry by entry.

Momentum, Adam's moments, Adagrad's sums: any state tensor of its parameter's shape. Step counters
and other scalars are not among them.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an entry


def state_like(optimizer: Optimizer | None, parameter: Tensor) -> list[Tensor]:
    """State tensors of `parameter` that have its shape; none before the first step."""
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    tensors = (value for value in state.values() if isinstance(value, Tensor))
    return [t for t in tensors if t.shape == parameter.shape and t.dim() > 0]


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor, in its memory (without autograd); any other tensor itself."""
    to_local = getattr(
        tensor, "to_local", None
    )  # to ask for the class would import it, for seconds
    return tensor if to_local is None else to_local()


def clear_(parameter: Tensor, mask: Tensor, optimizer: Optimizer | None) -> None:
    """Zero a parameter, its gradient and the optimizer's state of it where mask is false."""
    grads = [g for g in (parameter.grad,) if g is not None and g.layout == torch.strided]
    for tensor in (parameter.data, *grads, *state_like(optimizer, parameter)):
        mask_(tensor, mask)


def mask_(tensor: Tensor, mask: Tensor) -> None:
    """Zero a tensor where mask is false, infinite and NaN entries too.

    Its bits are multiplied by 0 or 1: an eighth of `masked_fill_`'s time on a CPU.
    """
    mine, keep = local(tensor), local(mask)
    if mine.is_floating_point() and mine.element_size() in BITS:
        mine.view(BITS[mine.element_size()]).mul_(keep)
    else:
        mine.masked_fill_(~keep, 0)


@torch.no_grad()
def reset_(optimizer: Optimizer | None) -> None:
    """Momentum back to 0 for all parameters; an optimizer with other state starts as a new one."""
    if optimizer is None:
        return
    for parameter, own in list(optimizer.state.items()):
        if own.keys() - {"momentum_buffer"}:
            del optimizer.state[parameter]
        elif own.get("momentum_buffer") is not None:
            own["momentum_buffer"].zero_()


def set_data_(tensor: Tensor, data: Tensor) -> None:
    """Give a tensor that others hold (a parameter, its gradient, its state) data of any shape."""
    # autograd keeps a leaf's accumulator, with its old shape, as long as some graph is alive;
    # it drops it when the dtype changes, so pass through another dtype.
    other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
    if tensor.is_floating_point() and tensor.layout == torch.strided:
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data


def replace_(
    optimizer: Optimizer | None, old: Tensor, new: Tensor, move: Callable[[Tensor], Tensor]
) -> None:
    """Train `new` in the place of `old`, in the same groups, with the state that `move` makes.

    Args:
        move: a tensor shaped like old -> one shaped like new.
    """
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"][:] = [new if p is old else p for p in group["params"]]
    moving = {id(t) for t in state_like(optimizer, old)}
    if old in optimizer.state:
        state = optimizer.state.pop(old)
        optimizer.state[new] = {k: move(t) if id(t) in moving else t for k, t in state.items()}
