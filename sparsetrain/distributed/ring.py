"""Collectives, and what they send."""

import torch
import torch.distributed as dist
from torch import Tensor


class Ring:
    """Collectives that count what this rank sends, by ring algorithms over W ranks.

    An all-gather sends its part W - 1 times; an all-reduce 2 (W - 1) / W times its bytes.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group, self.bytes_sent, self.collectives = group, 0, 0
        self.size = dist.get_world_size(group)
        gpu = dist.get_backend(group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if gpu else "cpu"

    def gather(self, part: Tensor) -> Tensor:
        """`[W, ...]`, on the CPU, from parts of one shape."""
        part = part.to(self.device).contiguous()
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part, group=self.group)
        self.bytes_sent += (self.size - 1) * part.nbytes
        self.collectives += 1
        return torch.stack(parts).cpu()

    def sum(self, counts: Tensor) -> Tensor:
        counts = counts.to(self.device)
        dist.all_reduce(counts, group=self.group)
        self.bytes_sent += 2 * (self.size - 1) * counts.nbytes // self.size
        self.collectives += 1
        return counts.cpu()
