"""Who takes part where whole networks are timed, and what shows that they compute the same."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsetrain.bench.engines import engines
from sparsetrain.bench.layer_problems import Form
from sparsetrain.bench.layers import Options
from sparsetrain.bench.model_problems import Workload, apply_, masks_of
from sparsetrain.engine import compile
from sparsetrain.nn import SparseLayer
from sparsetrain.swap import sparsify
from sparsetrain_runtime import Network

OURS, ENGINE = "sparsetrain", "sparsetrain engine"
TOLERANCE = 1e-3  # of the greatest: fp32 rounding, through all layers
RATE = 1e-12  # so small a step leaves the weights what they are


@dataclass(frozen=True)
class Contender:
    """One way to run a network.

    Attributes:
        form: of its weights; None: dense.
        run: returns logits, or after a training step the loss.
        layers: how many of the pruned ones run sparse.
        state_bytes: as `Record` says; None: not known.
        network: on the engine, where it is.
    """

    name: str
    form: Form | None
    run: Callable[[], Tensor]
    layers: str = ""
    state_bytes: int | None = None
    network: Network | None = None

    @property
    def key(self) -> str:
        return self.name if self.form is None else f"{self.name}, {self.form[0]} {self.form[1]:.0%}"


def dense(workload: Workload, options: Options) -> list[Contender]:
    """torch in each memory format and compiled; for inference the other engines."""
    x, model = workload.x(), workload.network()
    found = [_torch("dense, contiguous", None, model, workload, x)]
    if workload.image_size:
        model, x = _channels_last(workload), x.contiguous(memory_format=torch.channels_last)
        found.append(_torch("dense, channels_last", None, model, workload, x))
    if options.compiled:
        found.append(_compiled(model, workload, x))
    if options.with_rivals and workload.what == "inference":
        others = engines(workload.network(), workload.x())
        found += [Contender(f"dense, {name}", None, infer) for name, infer in others.items()]
    return found


def ours(workload: Workload, form: Form, cache: str | None) -> Contender:
    """What `sparsify` makes of the network, whose dense layers are in channels_last."""
    model, x = _channels_last(workload), workload.x().contiguous(memory_format=torch.channels_last)
    masks = masks_of(model, form)
    sparsify(apply_(masks, model), masks, x, training=workload.what == "training", cache=cache)
    sparse = sum(isinstance(m, SparseLayer) for m in model.modules())
    return _torch(OURS, form, model, workload, x, f"{sparse} of {len(masks)}")


def on_engine(workload: Workload, form: Form | None) -> Contender:
    """The network, dense or pruned, as the compiled engine runs it."""
    model, x = workload.network(), workload.x()
    masks = {} if form is None else masks_of(model, form)
    network = compile(model, x, masks)
    inner = network.network
    sparse = sum("form" in op.attrs for op in inner.program.ops)
    layers = f"{sparse} of {len(masks)}" if masks else ""
    name = ENGINE if form else f"dense, {ENGINE}"
    return Contender(name, form, lambda: _tensor(network(x)), layers, inner.bytes, inner)


def _tensor(found: Tensor | dict[str, Tensor]) -> Tensor:
    assert isinstance(found, Tensor)
    return found


def disagreement(workload: Workload, contender: Contender) -> str:
    """What is wrong with its logits or its loss, or nothing."""
    model = workload.network()
    if contender.form is not None:
        apply_(masks_of(model, contender.form), model)
    truth = _torch("", None, model, workload, workload.x()).run()
    found = contender.run()
    error = float((found - truth).abs().max()) / max(float(truth.abs().max()), 1e-30)
    return "" if error <= TOLERANCE else f"off by {error:.1e} of the greatest"


def _channels_last(workload: Workload) -> nn.Module:
    return workload.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _torch(
    name: str,
    form: Form | None,
    model: nn.Module,
    workload: Workload,
    x: Tensor,
    layers: str = "",
) -> Contender:
    if workload.what == "inference":
        return Contender(name, form, _inferrer(model, x), layers, _bytes(model, None))
    optimizer = _optimizer(model)
    step = _trainer(model, optimizer, x)
    step()  # the optimizer's state is there
    return Contender(name, form, step, layers, _bytes(model, optimizer))


def _compiled(model: nn.Module, workload: Workload, x: Tensor) -> Contender:
    name = "dense, compiled"
    torch.compiler.reset()
    if workload.what == "training":
        fast = torch.compile(model, dynamic=False)
        return Contender(name, None, _trainer(fast, _optimizer(model), x))
    frozen = torch.compile(model, dynamic=False, options={"freezing": True})

    def infer() -> Tensor:
        with torch.no_grad():
            return frozen(x)

    return Contender(name, None, infer)


def _inferrer(model: Any, x: Tensor) -> Callable[[], Tensor]:
    def infer() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return infer


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, fused=True)


def _trainer(model: Any, optimizer: torch.optim.Optimizer, x: Tensor) -> Callable[[], Tensor]:
    """A whole step: forward, backward, SGD with momentum."""
    y = torch.arange(len(x)) % 10

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> int:
    """Of parameters, buffers, gradients and optimizer state."""
    held = [*model.parameters(), *model.buffers()]
    if optimizer is not None:
        held += [p.grad for p in model.parameters() if p.grad is not None]
        held += [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
    return sum(t.nbytes for t in held)
