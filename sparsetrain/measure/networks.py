"""What a whole network costs: the time of a training step, memory, FLOPs, bytes on disk.

Times of several networks are taken in turns in one process, so that a machine that slows down slows
all of them; peak memory is taken in a process of its own for each. What masks prune runs as it does
in training: on its live weights alone, where that is faster.
"""

import copy
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsetrain import checkpoint
from sparsetrain.measure.memory import Peak
from sparsetrain.measure.timing import milliseconds
from sparsetrain.optim import SGD
from sparsetrain.selection.masks import Masks
from sparsetrain.shrink import Layer, trace
from sparsetrain.swap import sparsify

TOLERANCE = 1e-4  # of the greatest output of a network that runs on its live weights


@dataclass(frozen=True)
class Network:
    """A contender: a model and the masks that its training keeps.

    Attributes:
        execution: of what masks prune, in training steps: "auto", "sparse" or "dense".
    """

    model: nn.Module
    masks: Masks = field(default_factory=dict)
    execution: str = "auto"


@dataclass(frozen=True)
class Cost:
    """Medians over interleaved repeats, in ms; sizes in bytes; counts of what is not zero."""

    parameters: int
    flops: int  # of one sample, forward, non-zero weights only
    train_ms: float
    peak_bytes: int  # what a training step needs above the loaded process
    disk_bytes: int


def measure(
    networks: Mapping[str, Network],
    x: Tensor,
    y: Tensor,
    repeats: int,
    prepare: Callable[[], object] | None = None,
) -> dict[str, Cost]:
    """Name -> cost, on the batch `x`, `y`; the models stay what they are.

    Args:
        prepare: run first in each process that measures memory, such as to import the module that
            the models' classes are in.
    """

    steps = {name: train_thunk(network, x, y) for name, network in networks.items()}
    taken = milliseconds(steps, x.device.type, repeats)
    return {
        name: Cost(
            parameters=count_parameters(net),
            flops=count_flops(net, x[:1]),
            train_ms=statistics.median(taken[name]),
            peak_bytes=peak_bytes(net, x, y, prepare),
            disk_bytes=disk_bytes(net),
        )
        for name, net in networks.items()
    }


def live_entries(network: Network) -> dict[str, int]:
    """Parameter or buffer -> its entries, masked ones only where they are kept."""
    return {
        name: int(network.masks[name].sum()) if name in network.masks else tensor.numel()
        for name, tensor in network.model.state_dict().items()
    }


def count_parameters(network: Network) -> int:
    """Parameters, masked ones only where they are kept."""
    live = live_entries(network)
    return sum(live[name] for name, _ in network.model.named_parameters())


def count_flops(network: Network, sample: Tensor) -> int:
    """FLOPs of one sample's forward pass, two a kept weight and output position."""
    return live_flops(network, trace(network.model, sample).layers)


def live_flops(network: Network, layers: Iterable[Layer]) -> int:
    """The same, of layers that are known from a trace; their weights may have shrunk since."""
    live = live_entries(network)
    return sum(2 * layer.positions * live[layer.weight] for layer in layers)


def disk_bytes(network: Network) -> int:
    """Size of the file that `checkpoint.save_model` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        checkpoint.save_model(path, network.model, network.masks)
        return path.stat().st_size


def peak_bytes(
    network: Network, x: Tensor, y: Tensor, prepare: Callable[[], object] | None = None
) -> int:
    """Memory that two training steps need above what the process had before them."""
    if x.device.type == "cuda":
        return _two_steps(network, x, y)
    with ProcessPoolExecutor(1, get_context("spawn"), prepare) as pool:
        return pool.submit(_two_steps, network, x, y).result()


def _two_steps(network: Network, x: Tensor, y: Tensor) -> int:
    step = train_thunk(network, x, y)
    with Peak(x.device.type) as peak:
        step()
        step()
    return peak.bytes


def train_thunk(network: Network, x: Tensor, y: Tensor) -> Callable[[], object]:
    """A whole step of a copy: forward, backward, SGD with momentum and the masks inside."""
    model = copy.deepcopy(network.model)
    # So small a step leaves the weights what they are, however often it is taken.
    optimizer = SGD(model.parameters(), lr=1e-12, momentum=0.9)
    optimizer.set_masks(model, network.masks)
    if network.masks and network.execution != "dense" and x.device.type == "cpu":
        _sparsify(Network(model, network.masks, network.execution), optimizer, x)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def _sparsify(network: Network, optimizer: SGD, x: Tensor) -> None:
    before = infer_thunk(network, x)()
    force = "sparse" if network.execution == "sparse" else None
    sparsify(network.model, network.masks, x, optimizer=optimizer, training=True, force=force)
    error = float((infer_thunk(network, x)() - before).abs().max())
    if not error <= TOLERANCE * float(before.abs().max()):
        raise AssertionError(f"live weights alone give outputs that differ by {error:.2g}")


def infer_thunk(network: Network, x: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        network.model.eval()
        with torch.inference_mode():
            return network.model(x)

    return run
