"""Who takes part where one layer is timed: ours and dense torch; `rivals` has the others.

A contender computes y for the same x, and in a training step dx for the same dy and dw at the live
weights as well; `plain` turns what it returns into what torch has, so that all can be compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.bench.layer_problems import Form, Problem
from sparsetrain.nn import Blocked, SparseConv2d, SparseLinear
from sparsetrain.selection.patterns import parse_pattern
from sparsetrain.selection.select import select

TOLERANCE = 1e-4  # of the greatest: fp32 sums of up to 4e5 products, in different orders
DENSE = "dense"
OURS, BORDERS = "sparsetrain", "sparsetrain, borders"  # blocked throughout; dense in and out
WHATS = ("y", "dx", "dw")
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Contender:
    """One way to run a layer.

    Attributes:
        form: of its weight; None: dense, and so a rival of all forms.
        forward: returns (y,).
        step: a training step without optimizer; returns (y, dx, dw). None: it has none.
        plain: for y, dx and dw, how each becomes torch's.
    """

    name: str
    form: Form | None
    live: int
    forward: Callable[[], Tensors]
    step: Callable[[], Tensors] | None
    plain: tuple[Callable[[Any], Tensor], ...] = (lambda y: y, lambda dx: dx, lambda dw: dw)

    def run(self, what: str) -> Callable[[], Tensors] | None:
        return self.forward if what == "forward" else self.step


@dataclass(frozen=True)
class Data:
    """What all contenders of one problem share."""

    problem: Problem
    weight: Tensor
    x: Tensor
    dy: Tensor

    @classmethod
    def of(cls, problem: Problem, seed: int = 0) -> "Data":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = problem.layer.module()
            x = problem.layer.x(problem.batch)
            with torch.no_grad():
                dy = torch.randn_like(module(x))
        return cls(problem, module.weight.detach(), x, dy)

    def dense(self, mask: Tensor | None = None) -> nn.Conv2d | nn.Linear:
        module = self.problem.layer.module()
        with torch.no_grad():
            module.weight.copy_(self.weight if mask is None else self.weight * mask)
        return module

    def mask(self, form: Form) -> Tensor:
        pattern, sparsity = form
        generator = torch.Generator().manual_seed(1)
        score = torch.rand(self.weight.shape, generator=generator)
        return select(score, sparsity, pattern=parse_pattern(pattern))

    def truth(self, form: Form | None) -> Tensors:
        """y, dx, dw by plain torch."""
        mask = torch.ones_like(self.weight) if form is None else self.mask(form)
        module = self.dense(mask)
        y, dx, dw = stepper(module, module.weight, self.x, self.dy)()
        return y, dx, dw * mask


def stepper(
    call: Callable[[Tensor], Tensor], weight: Tensor, x: Tensor, dy: Tensor
) -> Callable[[], Tensors]:
    """Forward, dx and dw by autograd, of a copy of x that wants its gradient."""
    leaf = x.detach().requires_grad_()

    def step() -> Tensors:
        y = call(leaf)
        return (y.detach(), *torch.autograd.grad(y, (leaf, weight), dy))

    return step


def inferrer(call: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensors]:
    def infer() -> Tensors:
        with torch.inference_mode():
            return (call(x),)

    return infer


def dense(data: Data, compiled: bool) -> list[Contender]:
    """torch's own layer in each memory format, and compiled with its weight packed beforehand.

    Compiled training is left out: for a single layer its convolutions are eager torch's.
    """
    module, live = data.dense(), data.weight.numel()
    forward, step = inferrer(module, data.x), stepper(module, module.weight, data.x, data.dy)
    found = [Contender(f"{DENSE}, contiguous", None, live, forward, step)]
    x = data.x
    if data.problem.layer.size:
        layout = torch.channels_last
        module = data.dense().to(memory_format=layout)  # type: ignore[call-overload]
        x, dy = (t.contiguous(memory_format=layout) for t in (data.x, data.dy))
        forward, step = inferrer(module, x), stepper(module, module.weight, x, dy)
        found.append(Contender(f"{DENSE}, channels_last", None, live, forward, step))
    if compiled:
        torch.compiler.reset()  # after eight shapes of a module's forward it is left to eager
        fast = torch.compile(module.eval(), dynamic=False, options={"freezing": True})

        def infer() -> Tensors:
            with torch.no_grad():
                return (fast(x),)

        found.append(Contender(f"{DENSE}, compiled", None, live, infer, None))
    return found


def ours(data: Data, form: Form) -> list[Contender]:
    """The sparse layer inside a chain of such layers, and with conversions at its borders."""
    mask = data.mask(form)
    layer, live = sparse_layer(data, form, mask), int(mask.count_nonzero())
    scatter = (lambda y: y, lambda dx: dx, layer.pattern.scatter)
    borders = Contender(
        BORDERS,
        form,
        live,
        inferrer(layer, data.x),
        stepper(layer, layer.weight, data.x, data.dy),
        scatter,
    )
    inside = _inside(data, form, mask)
    return [borders] if inside is None else [inside, borders]


def sparse_layer(data: Data, form: Form, mask: Tensor) -> SparseConv2d | SparseLinear:
    """In eval mode: forward finds its values in order, as the compiled dense layer does."""
    v = int(form[0].partition(":")[2] or 1)
    module = data.dense().eval()
    if isinstance(module, nn.Conv2d):
        return SparseConv2d.from_dense(module, mask, v=v)
    return SparseLinear.from_dense(module, mask, v=v)


def _inside(data: Data, form: Form, mask: Tensor) -> Contender | None:
    """With x, y, dx and dy in the layout that neighbours would have; None where there is none."""
    layer = sparse_layer(data, form, mask)
    layer.output = "blocked"
    padding = (data.problem.layer.padding, data.problem.layer.padding)
    layer.reader_halo = padding
    lanes = _lanes(layer(data.x))
    if lanes is None:
        return None
    x = Blocked.of(data.x, lanes, padding)
    y = layer(x.like(x.data.clone().requires_grad_()))  # with the halo of training
    dy = Blocked.of(data.dy, lanes).with_halo(y.halo)

    def call(leaf: Tensor) -> Tensor:
        return layer(x.like(leaf)).data

    def plain(of: Tensor) -> Tensor:
        halo = (of.shape[2] - y.positions[0]) // 2, (of.shape[3] - y.positions[1]) // 2
        return y.like(of, halo).dense()

    forward, step = inferrer(call, x.data), stepper(call, layer.weight, x.data, dy.data)
    views = (plain, lambda dx: x.like(dx).dense(), layer.pattern.scatter)
    return Contender(OURS, form, int(mask.count_nonzero()), forward, step, views)


def _lanes(y: Tensor | Blocked) -> int | None:
    return y.lanes if isinstance(y, Blocked) else None


def disagreement(found: Sequence[Tensor], truth: Sequence[Tensor]) -> str:
    """What is wrong, or nothing."""
    for what, ours, torchs in zip(WHATS, found, truth, strict=False):
        if ours.shape != torchs.shape:
            return f"{what} has shape {list(ours.shape)} in place of {list(torchs.shape)}"
        error = float((ours - torchs).abs().max()) / max(float(torchs.abs().max()), 1e-30)
        if not error <= TOLERANCE:
            return f"{what} is off by {error:.1e} of its greatest"
    return ""


def check(contender: Contender, what: str, truth: Sequence[Tensor]) -> str:
    """What is wrong with its results, or nothing."""
    run = contender.run(what)
    if run is None:
        return ""
    results = [turn(t) for turn, t in zip(contender.plain, run(), strict=False)]
    return disagreement(results, truth)
