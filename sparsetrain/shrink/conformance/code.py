"""Hard graphs: what the model's own code does, and what cannot be pruned."""

from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.shrink.conformance.hard import Net, conv, hard, image, sequence, vectors
from sparsetrain.shrink.labels import Dims, Tracer
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.rules import rule


@torch.library.custom_op("sparsetrain_conformance::softsign", mutates_args=())
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|), with a rule."""
    return x / (1 + x.abs())


@torch.library.custom_op("sparsetrain_conformance::unknown", mutates_args=())
def unknown(x: Tensor) -> Tensor:
    """The same, without one."""
    return x / (1 + x.abs())


def _differentiable(op: Any) -> None:
    op.register_fake(torch.empty_like)
    op.register_autograd(
        lambda ctx, grad: grad / (1 + ctx.saved_tensors[0].abs()) ** 2,
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
    )


_differentiable(softsign)
_differentiable(unknown)


@rule("sparsetrain_conformance::softsign")
def _softsign(t: Tracer, step: Step) -> Dims:
    return list(t.dims[step.values[0]])


@hard(image)
def custom_operation() -> nn.Module:
    """An operation of `torch.library`, with a rule of three lines."""
    return Net(lambda n, x: n.out(softsign(n.a(x))), a=conv(3, 6), out=conv(6, 2))


@hard(image)
def branch_on_data() -> nn.Module:
    """An `if` on a computed value."""

    def forward(n, x):
        y = n.a(x)
        return n.out(n.b(y) if y.mean() < 1e9 else y)

    return Net(forward, a=conv(3, 6), b=conv(6, 6, 3), out=conv(6, 2))


@hard(image)
def loop_on_data() -> nn.Module:
    """A `while` on a computed value, which calls one layer again and again."""

    def forward(n, x):
        y, rounds = n.a(x), 0
        while rounds < 3 and float(y.detach().abs().max()) < 1e9:
            y, rounds = n.b(y).tanh(), rounds + 1
        return n.out(y)

    return Net(forward, a=conv(3, 6), b=conv(6, 6), out=conv(6, 2))


@hard(vectors)
def layers_in_a_dict() -> nn.Module:
    """Results in a dict, of modules that a name chooses."""
    layers = nn.ModuleDict({"left": nn.Linear(8, 6), "right": nn.Linear(8, 10)})

    def forward(n, x):
        y = n.a(x).relu()
        return {name: n.heads[name](layer(y)) for name, layer in n.layers.items()}

    heads = nn.ModuleDict({"left": nn.Linear(6, 2), "right": nn.Linear(10, 3)})
    return Net(forward, a=nn.Linear(6, 8), layers=layers, heads=heads)


@hard(vectors)
def result_that_is_not_returned() -> nn.Module:
    """A head whose result the model drops, as where a loss reads it in training alone."""

    def forward(n, x):
        y = n.a(x).relu()
        n.aux(n.b(y)).log_softmax(1)
        return n.out(y)

    layers = {"b": nn.Linear(6, 8), "aux": nn.Linear(8, 3), "out": nn.Linear(6, 2)}
    return Net(forward, a=nn.Linear(6, 6), **layers)


@hard(image)
def in_place() -> nn.Module:
    """Operations that write into their inputs, and into a part of them."""

    def forward(n, x):
        y = n.a(x).mul_(2).relu() * 1.5
        y[:, :, 0] = 0
        y[:, :, 1:3] += 1
        return n.out(y)

    return Net(forward, a=conv(3, 6), out=conv(6, 2))


@hard(image)
def frozen_layers() -> nn.Module:
    """A backbone that is not trained shrinks like all others, unless its user wants it whole."""
    net = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 2))
    net[0].requires_grad_(False)
    net[1].requires_grad_(False)
    return net


@hard(image, whole=("a.weight",), refused="there is no rule for sparsetrain_conformance.unknown")
def operation_without_a_rule() -> nn.Module:
    """Nobody knows what it does to its channels."""
    return Net(lambda n, x: n.out(n.b(unknown(n.a(x)))), a=conv(3, 6), b=conv(6, 8), out=conv(8, 2))


@hard(image, whole=("a.weight",), refused="aten.topk")
def topk_over_channels() -> nn.Module:
    """The largest two of all channels: which they are depends on the data."""
    return Net(
        lambda n, x: n.out(n.b(n.a(x).topk(2, 1).values)),
        **{"a": conv(3, 6), "b": conv(2, 8), "out": conv(8, 2)},
    )


@hard(vectors, whole=("a.weight",), refused="aten.cumsum")
def running_sum_over_channels() -> nn.Module:
    """Each entry is the sum of those before it."""
    return Net(
        lambda n, x: n.out(n.b(n.a(x).cumsum(1)).relu()),
        **{"a": nn.Linear(6, 6), "b": nn.Linear(6, 8), "out": nn.Linear(8, 2)},
    )


@hard(image, whole=("a.weight",), refused="aten.roll")
def rolled_channels() -> nn.Module:
    """Each channel takes the place of its neighbour."""
    return Net(
        lambda n, x: n.out(n.b(n.a(x) + n.a(x).roll(1, 1))),
        **{"a": conv(3, 6), "b": conv(6, 8), "out": conv(8, 2)},
    )


@hard(sequence, whole=("a.weight",), refused="it is the model's output")
def tied_to_the_output() -> nn.Module:
    """What is added to the result has its channels; what stands between has its own."""

    def forward(n, x):
        y = n.a(x)
        return y + n.b(n.mid(y).relu())

    return Net(forward, a=nn.Linear(6, 4), mid=nn.Linear(4, 8), b=nn.Linear(8, 4))


@hard(image, whole=("a.weight", "b.weight"), refused="it is the model's input")
def tied_to_the_input() -> nn.Module:
    """What is added to the input has its channels."""

    def forward(n, x):
        y = x + n.a(x).relu()
        return n.out(n.mid(y + n.b(y)).relu())

    return Net(forward, a=conv(3, 3), b=conv(3, 3), mid=conv(3, 8), out=conv(8, 2))


@hard(image, whole=("a.weight",), refused="takes one by its number")
def one_channel_by_its_number() -> nn.Module:
    """The first channel means something else than the others."""

    def forward(n, x):
        y = n.a(x)
        return n.out(n.b(y * y[:, :1].sigmoid() + y[:, 3].unsqueeze(1)))

    return Net(forward, a=conv(3, 6), b=conv(6, 8), out=conv(8, 2))
