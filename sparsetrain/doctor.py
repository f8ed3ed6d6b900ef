"""What this machine has, and whether the kernels work on it."""

from collections.abc import Callable
from typing import Any

import torch

from sparsetrain import ops
from sparsetrain.support.machine import machine


def examine() -> dict[str, Any]:
    """Name -> what was found; each compiled op on each device is "ok" or "FAILED: why"."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found = machine(devices[-1])
    for device in devices:
        for name, test in TESTS.items():
            found[f"{name} {device}"] = _outcome(test, device)
    return found


def _outcome(test: Callable[[str], None], device: str) -> str:
    try:
        test(device)
    except Exception as error:
        return f"FAILED: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"
    return "ok"


def _topk_mask(device: str) -> None:
    weights = [torch.randn(n, device=device).round(decimals=1) for n in (1000, 77)]
    grads = [torch.randn_like(w).round(decimals=1) for w in weights]
    found = ops.topk_mask(weights, grads, k=123, score="snip")
    wanted = ops.topk_mask_reference(weights, grads, k=123, score="snip")
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def _relu_density(device: str) -> None:
    x = torch.randn(3, 17, 5, 5, device=device)
    torch.testing.assert_close(ops.relu_density(x), ops.relu_density_reference(x))


def _gather_channels(device: str) -> None:
    tensors = [torch.randn(9, 8, 3, 3, device=device) for _ in range(3)]
    rows, cols = torch.tensor([0, 2, 8], device=device), torch.tensor([7, 1], device=device)
    found = ops.gather_channels(tensors, rows, cols)
    wanted = ops.gather_channels_reference(tensors, rows, cols)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


TESTS: dict[str, Callable[[str], None]] = {
    "topk_mask": _topk_mask,
    "relu_density": _relu_density,
    "gather_channels": _gather_channels,
}
