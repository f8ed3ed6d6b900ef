"""Scores of channels that lie in buffers, that buffers read, or that no layer reads at all."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from sparsetrain import plan, scores
from sparsetrain.scores.plain import gates
from sparsetrain.shrink import trace
from sparsetrain.shrink.conformance import GRAPHS

X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def loss(output, target):
    return output.square().sum()


def every_score(sample):
    batch = (sample, None)
    return [
        *(scores.GroupNorm(), scores.FilterNorm(), scores.FPGM(), scores.Random()),
        *(scores.ThreeSP(loss, batch, saliency=s) for s in ("gate", "weights")),
        *(scores.ThreeSP(loss, batch, saliency=s) for s in ("absolute", "square")),
        *(scores.Taylor(loss, [batch], variant=v) for v in ("gate", "weights")),
    ]


@pytest.mark.parametrize(
    "name", ["positional_encoding", "fixed_projection", "codebook", "masked_weights"]
)
def test_every_score_plans_with_buffers(name):
    _, sample = GRAPHS[name].build()
    for score in every_score(sample):
        model, _ = GRAPHS[name].build()
        removal = plan(model, sample, score, channels=0.5, allocation="uniform", round_to=1)
        removal.apply()
        assert all(2 * w == removal.graph[g].width for g, w in removal.widths.items())


class Gated(nn.Module):
    """A gate on what the projection, a buffer, reads, or on what meets another layer's."""

    def __init__(self, by):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(6, 2)
        self.by = by
        self.register_buffer("basis", torch.randn(5, 6))

    def forward(self, x, gate=1):
        y = self.a(x) * gate
        if self.by == "basis":
            return self.out(torch.cos(y @ self.basis))
        return (y @ self.b(x).mT).softmax(-1) @ x


@pytest.mark.parametrize(("by", "times"), [("basis", 1), ("each other", 2)])
def test_the_gradient_of_a_gate_needs_no_layer_that_reads(by, times):
    """Where two layers' channels meet each other, each of them has the gate's gradient."""
    net, gate = Gated(by).double(), torch.ones(5, dtype=torch.float64, requires_grad=True)
    [wanted] = torch.autograd.grad(loss(net(X, gate), None), gate)
    score = scores.ThreeSP(loss, (X, None), per_flop="none")
    found = score(net, trace(net, X))["a"]
    torch.testing.assert_close(found, times * wanted.abs())
    assert not net.basis.requires_grad


def test_masks_of_torch_are_no_weights():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    for layer in (0, 2):
        prune.l1_unstructured(net[layer], "weight", 0.5)
    graph = trace(net, X.float())
    read = {m.tensor: m.consumes for m in graph["0"].members}
    assert read == {
        **{"0.weight_orig": False, "0.weight_mask": False, "0.bias": False},
        **{"2.weight_orig": True, "2.weight_mask": True},
    }
    assert {m.tensor for m in gates(net, graph, graph["0"])} == {"2.weight_orig", "2.weight_mask"}
    assert graph.flops() == 2 * (4 * 6 + 6 * 6 + 6 * 2)
    removal = plan(net, X.float(), scores.GroupNorm(), channels=0.5, round_to=1, protect=["2"])
    assert removal.widths == {"0": 3}


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.a, self.o, self.reentrant = nn.Linear(4, 6), nn.Linear(6, 3), reentrant
        self.b = nn.Sequential(nn.Linear(6, 6), nn.ReLU())

    def forward(self, x):
        if self.reentrant is None:
            return self.o(self.b(self.a(x)))
        return self.o(checkpoint(self.b, self.a(x), use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_change_no_score(reentrant):
    plain, net = Checkpointed(None).double(), Checkpointed(reentrant).double()
    net.load_state_dict(plain.state_dict())
    calls = []
    net.a.weight.register_post_accumulate_grad_hook(lambda p: calls.append(p))
    net.a.bias.grad = torch.ones(6, dtype=torch.float64)
    for score in every_score(X):
        wanted, found = score(plain, trace(plain, X)), score(net, trace(net, X))
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name])
    assert not calls
    assert net.a.weight.grad is None
    assert torch.equal(net.a.bias.grad, torch.ones(6, dtype=torch.float64))
    assert plan(net, X, scores.Random(), channels=0.5, round_to=1).verify() < 1e-9
