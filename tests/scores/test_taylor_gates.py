"""Taylor's gates against gates that are built: one a residual stage, behind each of its sums."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparsetrain import scores
from sparsetrain.shrink import trace
from sparsetrain.shrink.streams import stream_of

torch.manual_seed(0)
X, Y = torch.randn(6, 3, 9, 9, dtype=torch.float64), torch.arange(6) % 4


class Gate(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.z = nn.Parameter(torch.ones(width, dtype=torch.float64))

    def forward(self, x):
        return x * self.z.view(1, -1, 1, 1)


class Block(nn.Module):
    def __init__(self, inputs, width, stride, norm, gate):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=not norm)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=not norm)
        self.norm1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.relu, self.gate = nn.ReLU(), gate
        self.down = None
        if inputs != width:
            conv = nn.Conv2d(inputs, width, 1, stride, bias=not norm)
            self.down = nn.Sequential(conv, nn.BatchNorm2d(width) if norm else nn.Identity())

    def forward(self, x):
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out = out + (x if self.down is None else self.down(x))
        out = self.relu(out)
        return out if self.gate is None else self.gate(out)


def resnet(norm=True, gated=False, blocks=(3, 2)):
    torch.manual_seed(1)
    gates = [Gate(6), Gate(8)] if gated else [None, None]
    width, layers = 6, [nn.Conv2d(3, 6, 3, bias=not norm)]
    layers += [nn.BatchNorm2d(6), nn.ReLU()] if norm else [nn.ReLU()]
    for stage, (n, out) in enumerate(zip(blocks, (6, 8), strict=True)):
        for i in range(n):
            layers.append(Block(width, out, 2 if stage and not i else 1, norm, gates[stage]))
            width = out
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return model, gates


def built(norm, blocks):
    """The code's criterion: (z * dL/dz)^2 over the number of blocks, for each stage."""
    model, gates = resnet(norm, True, blocks)
    cross_entropy(model.train()(X), Y).backward()
    return [g.z.grad.square() / n for g, n in zip(gates, blocks, strict=True)]


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("blocks", [(1, 1), (3, 2), (2, 4)])
def test_gates_of_residual_stages_are_those_behind_each_sum(norm, blocks):
    model, _ = resnet(norm, blocks=blocks)
    graph = trace(model, X[:1])
    found = scores.Taylor(cross_entropy, [(X, Y)])(model, graph)
    stages = [g for g in graph.free if stream_of(graph, g)]
    assert [g.width for g in stages] == [6, 8]
    for stage, wanted in zip(stages, built(norm, blocks), strict=True):
        torch.testing.assert_close(found[stage.name], wanted, rtol=1e-6, atol=1e-12)


def test_readers_alone_are_a_named_option():
    model, _ = resnet()
    graph = trace(model, X[:1])
    sums, readers = (
        scores.Taylor(cross_entropy, [(X, Y)], residual=how)(model, graph)
        for how in ("sums", "readers")
    )
    stages = [g.name for g in graph.free if stream_of(graph, g)]
    for name in sums:
        assert torch.equal(sums[name], readers[name]) == (name not in stages)


class PreActivation(nn.Module):
    """A norm stands between the stream and what reads it."""

    def __init__(self, act):
        super().__init__()
        self.stem, self.out = nn.Linear(4, 6), nn.Linear(6, 4)
        self.norm, self.a, self.b = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)
        self.act = act

    def forward(self, x):
        x = self.stem(x)
        return self.out(x + self.b(self.act(self.a(self.norm(x)))))


@pytest.mark.parametrize("kind", ["norm", "gelu", "read"])
def test_other_streams_count_each_reader_once(kind):
    if kind == "norm":
        model = PreActivation(nn.ReLU()).double()
    elif kind == "gelu":
        model = nn.Sequential(PreActivation(nn.GELU())).double()
    else:
        model, _ = resnet()
        model[4].relu.register_forward_hook(lambda m, args, out: torch.tanh(out))
    x = X if kind == "read" else torch.randn(6, 4, dtype=torch.float64)
    graph = trace(model, x[:1])
    widest = [g for g in graph.free if g.width == 6]
    assert all(stream_of(graph, g) is None for g in widest)
    ours, theirs = (
        scores.Taylor(cross_entropy, [(x, Y)], residual=how)(model, graph)
        for how in ("readers", "sums")
    )
    assert all(torch.equal(ours[g.name], theirs[g.name]) for g in widest)
