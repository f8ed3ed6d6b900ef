"""Does the shrunk network compute what the network with its channels cut computes?

That one is the whole network, operation by operation (shrink/replay.py), with the removed channels
cut where they are read. Both run on the same sample; outputs must be equal to float rounding, and
in training mode also the gradients of a fixed random projection of the output, entry by entry of
everything that stayed.

A norm over few positions, or a ReLU near zero, makes much of rounding: where single precision
leaves it open, double answers. Ties of a sort are broken alike (shrink/choices.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from sparsetrain.optim import set_data_
from sparsetrain.shrink.choices import AsChosen, Choices
from sparsetrain.shrink.drawing import Means, Run
from sparsetrain.shrink.outputs import Outputs, compared
from sparsetrain.shrink.program import Program, data_steps
from sparsetrain.shrink.record import SEED, arguments, tensors_of
from sparsetrain.shrink.reducers import rebuild_reducers
from sparsetrain.shrink.replay import replay, replay_live
from sparsetrain.shrink.small import Stays
from sparsetrain.shrink.trace import Walk
from sparsetrain.shrink.unproved import Differs, Unproved
from sparsetrain.support.gradients import gradients
from sparsetrain.support.modes import SHARED, quietly

# Sums of up to some thousand products change in their order; relative to the largest entry.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
# Of results in double precision on whose way something is cast to single, as RMS norms and
# softmaxes often are: its 24 bits, 6e-8, over a dozen such places.
CAST = 1e-6
AS_GRAPH = "; apply(as_graph=True) helps where its code mentions a width that went"


@dataclass(frozen=True)
class Proof:
    """What the shrunk model must compute on the sample."""

    sample: Any
    outputs: list[Tensor]  # evaluation mode
    double: float  # what counts as rounding in double precision
    wanted: Outputs = None  # which these outputs are
    choices: Choices = field(default_factory=Choices)
    data: str = ""  # steps by which the code learns from the data what it does
    training: "TrainingProof | None" = None

    def check(self, model: nn.Module, factors: Mapping[str, Tensor] | None = None) -> float:
        """The largest relative error.

        Args:
            factors: parameter -> by what its entries were multiplied beside.

        Raises:
            Unproved: it is more than rounding; of type Differs where it is just that.
        """
        training = False
        try:
            with AsChosen(self.choices, _tolerances(self.double)):
                found = _outputs(model, self.sample, self.wanted)
            error = _compare(["output"] * len(found), self.outputs, found, self.double)
            training = True
            if self.training is not None:
                error = max(error, self.training.check(model, factors or {}))
            _call_gradient_hooks(model)
        except Exception as problem:  # a model may raise what it likes
            reason = (str(problem).splitlines() or [repr(problem)])[0]
            hint = "" if isinstance(model, fx.GraphModule) else AS_GRAPH
            kind = Differs if isinstance(problem, Differs) else Unproved
            reason = f"the shrunk model fails its proof: {reason}"
            raise kind(reason, self._about_data() + hint, training) from problem
        return error

    def _about_data(self) -> str:
        said = (
            f"; what it does hangs on data ({self.data}): if lengths or branches come out otherwise"
            " without the channels there is nothing to compare, and verify=False goes without proof"
        )
        return said if self.data else ""


@dataclass(frozen=True)
class TrainingProof:
    """What the shrunk model must compute in training mode, but for what it drops."""

    sample: Any
    outputs: list[Tensor]
    gradients: dict[str, Tensor]
    double: float
    wanted: Outputs
    choices: Choices

    def check(self, model: nn.Module, factors: Mapping[str, Tensor]) -> float:
        with AsChosen(self.choices, _tolerances(self.double)):
            outputs, gradients = _learn(model, self.sample, self.wanted)
        names = ["training output"] * len(outputs)
        error = _compare(names, self.outputs, outputs, self.double)
        names = [f"gradient of {name}" for name in self.gradients]
        grads = [_unscaled(gradients[name], factors.get(name)) for name in self.gradients]
        # Rounding can switch a ReLU near zero, which gradients feel and outputs do not.
        wanted = list(self.gradients.values())
        return max(error, _compare(names, wanted, grads, self.double, slack=50))


def settled(prove: Callable[[Any], float], model: nn.Module, sample: Any) -> float:
    """What `prove(sample)` finds; where the numbers differ, what it finds in double precision."""
    try:
        return prove(sample)
    except Differs as difference:
        if all(p.dtype != torch.float32 for p in model.parameters()):
            raise
        with exactly(model, sample) as exact:
            try:
                return prove(exact)
            except Differs:
                raise
            except (RuntimeError, ValueError):  # an operation that has no double precision
                raise difference from None


@contextmanager
def exactly(model: nn.Module, sample: Any) -> Iterator[Any]:
    """The model in double precision for a while; yields the sample in it."""
    tensors = [*model.parameters(), *model.buffers()]
    held = [(t, t.data) for t in tensors if t.dtype == torch.float32]
    with SHARED:
        before = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float64)
            for tensor, data in held:
                set_data_(tensor, data.double())
            yield tree_map_only(
                Tensor, lambda t: t.double() if t.dtype == torch.float32 else t, sample
            )
        finally:
            torch.set_default_dtype(before)
            for tensor, data in held:
                set_data_(tensor, data)
            rebuild_reducers(model)


def expect(
    model: nn.Module,
    walk: Walk,
    stays: Stays,
    sample: Any,
    trained: Run | None = None,
    live: bool = True,
) -> Proof:
    """Compute what the shrunk model must compute; the model is left as it was.

    Args:
        trained: its call in training mode, for a proof in that mode, too.
        live: its code sees the data of the network that is cut, if it looks at any, and not those
            of the record, as a graph module does.
    """
    choices, program = Choices(), walk.program
    data = ", ".join(dict.fromkeys(str(step) for step in data_steps(program)))
    with torch.no_grad(), quietly(model, False, SEED):
        outputs = _live(walk, model, sample, stays, choices) if live and data else None
        if outputs is None:
            outputs = replay(walk, model, sample, stays, choices)
    training = None if trained is None else _expect_trained(model, trained, stays)
    floating, double = _floating(outputs), _rounding(program)
    return Proof(sample, floating, double, program.wanted, choices, data, training)


def _live(
    walk: Walk, model: nn.Module, sample: Any, stays: Stays, choices: Choices
) -> list[Tensor] | None:
    """None where the code does something else than was recorded."""
    try:
        return replay_live(walk, model, sample, stays, choices)
    except Exception:  # numbers that it meets there may break it anywhere
        choices.made.clear()
        return None


def _expect_trained(model: nn.Module, trained: Run, stays: Stays) -> TrainingProof:
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    choices = Choices()
    with torch.enable_grad(), quietly(model, True, SEED), Means():
        outputs = _floating(replay(trained.walk, model, trained.sample, stays, choices))
        found = gradients(lambda: _projected(outputs), list(wanted.values()), model)
    by_name = _dense(wanted, found)
    kept = {n: _kept(g, stays.get(n, {})) for n, g in by_name.items()}
    outputs, program = [o.detach() for o in outputs], trained.walk.program
    double = _rounding(program)
    return TrainingProof(trained.sample, outputs, kept, double, program.wanted, choices)


def _rounding(program: Program) -> float:
    """What counts as rounding in a result of double precision."""
    made = {v.dtype for step in program.steps for v in step.outputs if v.dtype.is_floating_point}
    return TOLERANCE[torch.float64] if made <= {torch.float64} else CAST


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


def _unscaled(gradient: Tensor, factor: Tensor | None) -> Tensor:
    """That of the parameter as it was before it was multiplied."""
    return gradient if factor is None else gradient * factor.to(gradient)


def _kept(gradient: Tensor, stays: dict[int, Tensor]) -> Tensor:
    for dim, index in stays.items():
        gradient = gradient.index_select(dim, index.to(gradient.device))
    return gradient


def _outputs(model: nn.Module, sample: Any, wanted: Outputs) -> list[Tensor]:
    args, kwargs = arguments(sample)
    with torch.no_grad(), quietly(model, False, SEED):
        return _floating(tensors_of(compared(model(*args, **kwargs), wanted)))


def _learn(
    model: nn.Module, sample: Any, wanted: Outputs
) -> tuple[list[Tensor], dict[str, Tensor]]:
    args, kwargs = arguments(sample)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    outputs: list[Tensor] = []

    def loss() -> Tensor:
        outputs[:] = _floating(tensors_of(compared(model(*args, **kwargs), wanted)))
        return _projected(outputs)

    with torch.enable_grad(), quietly(model, True, SEED), Means():
        found = gradients(loss, list(trained.values()), model)
    return [o.detach() for o in outputs], _dense(trained, found)


def _projected(outputs: list[Tensor]) -> Tensor:
    """A fixed random projection of the outputs: its gradients are compared."""
    none = torch.zeros((), requires_grad=True)  # where all are whole numbers
    return sum(((o * _projection(o)).sum() for o in outputs), start=none)


def _projection(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(output.shape, generator=generator).to(output)


def _dense(names: Iterable[str], found: list[Tensor | None]) -> dict[str, Tensor]:
    return {n: g.to_dense() for n, g in zip(names, found, strict=False) if g is not None}


def _floating(tensors: list[Tensor]) -> list[Tensor]:
    return [t for t in tensors if t.is_floating_point()]


def _tolerances(double: float) -> dict[torch.dtype, float]:
    return TOLERANCE | {torch.float64: double}


def _compare(
    names: list[str],
    wanted: list[Tensor],
    found: list[Tensor],
    double: float,
    slack: float = 1,
) -> float:
    """Largest error over all tensors, relative to the largest entry of them all."""
    tolerances = _tolerances(double)
    scale = max([float(t.double().abs().max()) for t in wanted if t.numel()], default=0.0)
    worst = 0.0
    for name, a, b in zip(names, wanted, found, strict=True):
        if a.shape != b.shape:
            raise RuntimeError(f"its {name} is {list(b.shape)} instead of {list(a.shape)}")
        if a.numel() == 0:
            continue
        error = float((a.double() - b.double()).abs().max()) / max(scale, 1e-30)
        if not error <= slack * tolerances.get(a.dtype, TOLERANCE[torch.float32]):
            raise Differs(f"its {name} is off by {error:.1e} of the largest entry")
        worst = max(worst, error)
    return worst
