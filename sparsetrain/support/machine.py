"""The machine that runs this."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

INSTRUCTION_SETS = ("default", "avx2", "avx512")  # as SPARSETRAIN_ISA has them, the lowest first


def instruction_set() -> str:
    """The highest that is used here by both torch and sparsetrain; only speed depends on it."""
    torchs = torch.backends.cpu.get_cpu_capability().lower()
    ours = os.environ.get("SPARSETRAIN_ISA", INSTRUCTION_SETS[-1])
    known = [INSTRUCTION_SETS.index(s) if s in INSTRUCTION_SETS else 0 for s in (torchs, ours)]
    return INSTRUCTION_SETS[min(known)]


def machine(device: str) -> dict[str, Any]:
    """What a number must be published with."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "instruction set": instruction_set(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }
