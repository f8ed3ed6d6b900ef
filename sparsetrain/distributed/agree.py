"""Choices by data that are the same on all ranks: what each rank found is averaged first."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import count

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

WAIT = timedelta(seconds=60)
_meetings = count()


def ranks_of(model: nn.Module, who: str) -> dist.ProcessGroup | None:
    """The ranks that choose together: those of a DistributedDataParallel in the model, or all.

    None where there is one process. Every rank has to ask; outside of a wrapper that is made sure.

    Raises:
        RuntimeError: another rank does not ask within a minute.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            group = module.process_group
            return group if dist.get_world_size(group) > 1 else None
    _meet(who)
    return dist.group.WORLD


def mean_over_(ranks: dist.ProcessGroup | None, tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes its mean over the ranks, the same numbers on all; in place."""
    if ranks is None:
        return
    size, on_gpu = dist.get_world_size(ranks), dist.get_backend(ranks) == "nccl"
    for tensor in tensors:
        sent = tensor.cuda() if on_gpu and not tensor.is_cuda else tensor.contiguous()
        dist.all_reduce(sent, group=ranks)
        tensor.copy_(sent / size)


def equal_over(ranks: dist.ProcessGroup | None, value: object) -> bool:
    """Whether all ranks hold an equal value."""
    if ranks is None:
        return True
    values: list[object] = [None] * dist.get_world_size(ranks)
    dist.all_gather_object(values, value, group=ranks)
    return all(v == values[0] for v in values)


def _meet(who: str) -> None:
    """Wait for all ranks, by keys of the store: it disturbs no collective of others."""
    store = torch.distributed.distributed_c10d._get_default_store()
    number, rank = next(_meetings), dist.get_rank()
    keys = [f"sparsetrain/{who}/{number}/{other}" for other in range(dist.get_world_size())]
    store.set(keys[rank], "1")
    try:
        store.wait(keys, WAIT)
    except RuntimeError as error:
        raise RuntimeError(
            f"{who}: rank {rank} chooses by its data, and the other ranks do not within"
            f" {WAIT.seconds} s; call it on every rank, so that all choose alike"
        ) from error
