"""Does the shrunk network compute what the network with its channels cut computes?

That one is the whole network, operation by operation (shrink/replay.py), with the removed channels
cut where they are read. Both run on the same sample; outputs must be equal to float rounding, and
in training mode also the gradients of a fixed random projection of the output, entry by entry of
everything that stayed.

A norm over few positions, or a ReLU near zero, makes much of rounding. Where single precision
leaves it open whether a difference is more than that, double precision answers.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from sparsetrain.modes import quietly
from sparsetrain.optim import set_data_
from sparsetrain.shrink.apply import Kept, entries, rebuild_reducers
from sparsetrain.shrink.graph import Graph
from sparsetrain.shrink.record import SEED, arguments, record, tensors_of
from sparsetrain.shrink.replay import replay
from sparsetrain.shrink.small import Stays
from sparsetrain.shrink.trace import Walk, follow

# Sums of up to some thousand products change in their order; relative to the largest entry. In
# double precision many models do one thing or other in single.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
AS_GRAPH = "; apply(as_graph=True) helps where its code mentions a width that went"


class Differs(RuntimeError):
    """Two numbers that should be the same."""


@dataclass(frozen=True)
class Proof:
    """What the shrunk model must compute on the sample."""

    sample: Any
    outputs: list[Tensor]  # evaluation mode
    trained: tuple[list[Tensor], dict[str, Tensor]] | None  # training mode: outputs, gradients

    def check(self, model: nn.Module) -> float:
        """The largest relative error.

        Raises:
            RuntimeError: it is more than rounding; of type Differs where it is just that.
        """
        try:
            found = _outputs(model, self.sample)
            error = _compare(["output"] * len(found), self.outputs, found, slack=1)
            if self.trained is not None:
                outputs, gradients = _trained(model, self.sample)
                names = ["training output"] * len(outputs)
                error = max(error, _compare(names, self.trained[0], outputs, slack=1))
                wanted = self.trained[1]
                names = [f"gradient of {name}" for name in wanted]
                grads = [gradients[name] for name in wanted]
                # Rounding can switch a ReLU near zero, which gradients feel and outputs do not.
                error = max(error, _compare(names, list(wanted.values()), grads, slack=50))
            _call_gradient_hooks(model)
        except Exception as problem:  # a model may raise what it likes
            reason = (str(problem).splitlines() or [repr(problem)])[0]
            hint = "" if isinstance(model, fx.GraphModule) else AS_GRAPH
            kind = Differs if isinstance(problem, Differs) else RuntimeError
            raise kind(f"the shrunk model fails its proof: {reason}{hint}") from problem
        return error


def settled(prove: Callable[[Any], float], model: nn.Module, sample: Any) -> float:
    """What `prove(sample)` finds; where the numbers differ, what it finds in double precision."""
    try:
        return prove(sample)
    except Differs as difference:
        if all(p.dtype != torch.float32 for p in model.parameters()):
            raise
        with _exactly(model, sample) as exact:
            try:
                return prove(exact)
            except Differs:
                raise
            except (RuntimeError, ValueError):  # an operation that has no double precision
                raise difference from None


@contextmanager
def _exactly(model: nn.Module, sample: Any) -> Iterator[Any]:
    """The model in double precision for a while; yields the sample in it."""
    tensors = [*model.parameters(), *model.buffers()]
    held = [(t, t.data) for t in tensors if t.dtype == torch.float32]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        for tensor, data in held:
            set_data_(tensor, data.double())
        yield tree_map_only(Tensor, lambda t: t.double() if t.dtype == torch.float32 else t, sample)
    finally:
        torch.set_default_dtype(before)
        for tensor, data in held:
            set_data_(tensor, data)
        rebuild_reducers(model)


def expect(
    model: nn.Module,
    graph: Graph,
    kept: Kept,
    sample: Any,
    training: bool = False,
    only: type[nn.Module] = nn.Module,
) -> Proof:
    """Compute what the shrunk model must compute; the model is left as it was.

    Args:
        training: in training mode, too, which is for modules of the class `only`.
    """
    return expect_of(model, graph.walk, entries(graph, kept), sample, training, only)


def expect_of(
    model: nn.Module,
    walk: Walk,
    stays: Stays,
    sample: Any,
    training: bool = False,
    only: type[nn.Module] = nn.Module,
) -> Proof:
    """The same, given which entries of its tensors stay."""
    with torch.no_grad(), quietly(model, False, SEED):
        outputs = replay(walk, model, sample, stays)
    trained = _expect_trained(model, sample, (stays, walk.heads), only) if training else None
    return Proof(sample, _floating(outputs), trained)


def _expect_trained(
    model: nn.Module, sample: Any, removal: tuple[Stays, str], only: type[nn.Module]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    stays, heads = removal
    walk = follow(record(model, sample, True, only), heads)
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad(), quietly(model, True, SEED, only):
        outputs = _floating(replay(walk, model, sample, stays))
        gradients = _gradients(outputs, wanted)
    kept = {n: _kept(g, stays.get(n, {})) for n, g in gradients.items()}
    return [o.detach() for o in outputs], kept


def _call_gradient_hooks(model: nn.Module) -> None:
    """With gradients of zero: one that multiplies by a mask of its own fails where that is wide."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter._backward_hooks:
            with torch.inference_mode(False), torch.enable_grad():
                nothing = (parameter * 0).sum()
            try:
                torch.autograd.grad(nothing, parameter)
            except Exception as problem:
                raise RuntimeError(f"a hook on the gradient of {name}: {problem}") from problem


def _kept(gradient: Tensor, stays: dict[int, Tensor]) -> Tensor:
    for dim, index in stays.items():
        gradient = gradient.index_select(dim, index.to(gradient.device))
    return gradient


def _outputs(model: nn.Module, sample: Any) -> list[Tensor]:
    args, kwargs = arguments(sample)
    with torch.no_grad(), quietly(model, False, SEED):
        return _floating(tensors_of(model(*args, **kwargs)))


def _trained(model: nn.Module, sample: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
    args, kwargs = arguments(sample)
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad(), quietly(model, True, SEED):
        outputs = _floating(tensors_of(model(*args, **kwargs)))
        gradients = _gradients(outputs, wanted)
    return [o.detach() for o in outputs], gradients


def _gradients(outputs: list[Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a fixed random projection of the outputs."""
    if not wanted:
        return {}
    total = sum(((o * _projection(o)).sum() for o in outputs), start=torch.zeros(()))
    gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    return {n: g.to_dense() for n, g in zip(wanted, gradients, strict=True) if g is not None}


def _projection(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(output.shape, generator=generator).to(output)


def _floating(tensors: list[Tensor]) -> list[Tensor]:
    return [t for t in tensors if t.is_floating_point()]


def _compare(names: list[str], wanted: list[Tensor], found: list[Tensor], slack: float) -> float:
    """Largest error over all tensors, relative to the largest entry of them all."""
    scale = max([float(t.double().abs().max()) for t in wanted if t.numel()], default=0.0)
    worst = 0.0
    for name, a, b in zip(names, wanted, found, strict=True):
        if a.shape != b.shape:
            raise RuntimeError(f"its {name} is {list(b.shape)} instead of {list(a.shape)}")
        if a.numel() == 0:
            continue
        error = float((a.double() - b.double()).abs().max()) / max(scale, 1e-30)
        if not error <= slack * TOLERANCE.get(a.dtype, TOLERANCE[torch.float32]):
            raise Differs(f"its {name} is off by {error:.1e} of the largest entry")
        worst = max(worst, error)
    return worst
