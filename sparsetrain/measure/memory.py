"""Memory: the most that something needed while it ran, and what is free."""

import resource
import sys
from pathlib import Path
from types import TracebackType

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEMINFO = Path("/proc/meminfo")


def free_bytes(device: str) -> float:
    """What may still be allocated; inf where the system does not say."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return _kilobytes(MEMINFO, "MemAvailable") if MEMINFO.exists() else float("inf")


class Peak:
    """`with Peak(device) as peak: ...`; then `peak.bytes`, above what was in use before."""

    bytes: int = 0

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"

    def __enter__(self) -> "Peak":
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._before = _resident_now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        peak = torch.cuda.max_memory_allocated() if self._cuda else _resident_peak()
        self.bytes = max(0, peak - self._before)


def _resident_now() -> int:
    """Bytes in use; where the system allows it, the peak is counted from here."""
    try:
        RESET.write_text("5")
        return _kilobytes(STATUS, "VmRSS")
    except OSError:
        return _resident_peak()


def _resident_peak() -> int:
    if STATUS.exists():
        return _kilobytes(STATUS, "VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _kilobytes(file: Path, field: str) -> int:
    """A line such as "VmRSS: 12 kB", in bytes."""
    line = next(s for s in file.read_text().splitlines() if s.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
