"""Random numbers: streams that depend on a key alone, and the generators that everybody shares."""

import random
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch


def random_stream(*key: int) -> torch.Generator:
    """A generator on the CPU; equal keys give equal numbers, on every machine."""
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def normal(shape: Sequence[int], stream: torch.Generator) -> torch.Tensor:
    """fp32 numbers of the standard normal law, drawn in fp64, where instruction sets agree."""
    return torch.randn(tuple(shape), generator=stream, dtype=torch.float64).float()


def seed_all(seed: int) -> None:
    """Torch's, Python's and numpy's shared generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def shared_state(device: torch.device) -> dict[str, Any]:
    """Of the shared generators: plain data and tensors."""
    version, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state()
    state = {
        "cpu": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": {"keys": torch.from_numpy(np.asarray(keys, np.int64)), "rest": rest},
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {})


def set_shared_state(state: Mapping[str, Any]) -> None:
    """Go on from `shared_state()`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys = state["numpy"]["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *state["numpy"]["rest"]))
