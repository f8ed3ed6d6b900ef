"""CUB's DeviceTopK for benchmarks, compiled when asked for; sparsetrain itself does not need it.

Its headers come with the package nvidia-cuda-cccl (CCCL 3.2 and later); nvcc must be on PATH.
"""

import ctypes
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

HEADER = "cub/device/device_topk.cuh"


def headers() -> Path | None:
    """The folder that holds CUB's, if it is installed and has DeviceTopK."""
    spec = importlib.util.find_spec("nvidia")
    for root in (spec and spec.submodule_search_locations) or ():
        for found in Path(root).glob(f"**/{HEADER}"):
            return found.parents[2]
    return None


@cache
def cub_topk() -> Callable[[Tensor, int], Tensor] | None:
    """A function (scores, k) -> the k largest, in any order; None where it cannot be compiled."""
    include = headers()
    if include is None or not shutil.which("nvcc"):
        return None
    library = Path(tempfile.mkdtemp()) / "cub_topk.so"
    flags = ["-std=c++17", "-O3", "-arch=native", "-shared", "-Xcompiler=-fPIC", f"-I{include}"]
    source = Path(__file__).with_suffix(".cu")
    if subprocess.run(["nvcc", *flags, "-o", library, source]).returncode:
        return None
    call = ctypes.CDLL(str(library)).cub_topk

    def run(scores: Tensor, k: int) -> Tensor:
        largest, size = scores.new_empty(k), ctypes.c_size_t()
        ends = [ctypes.c_void_p(scores.data_ptr()), ctypes.c_void_p(largest.data_ptr())]
        counts = [ctypes.c_int64(scores.numel()), ctypes.c_int64(k)]
        rest = [*ends, *counts, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)]
        _check(call(None, ctypes.byref(size), *rest))
        buffer = scores.new_empty(size.value, dtype=torch.uint8)
        _check(call(ctypes.c_void_p(buffer.data_ptr()), ctypes.byref(size), *rest))
        return largest

    return run


def _check(error: int) -> None:
    if error:
        raise RuntimeError(f"cub_topk: CUDA error {error}")
