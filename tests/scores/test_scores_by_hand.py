"""A worked example for each score of channels that needs no gradient of a real network."""

import pytest
import torch
from torch import nn

from sparsetrain import scores
from sparsetrain.shrink import trace

F64 = torch.float64


def filled(*values):
    return torch.tensor(values, dtype=F64)


def chain():
    """Two inputs, three hidden units with a norm, one output."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(filled([3, 4], [3, 0], [-1, 1]))
        model[0].bias.fill_(9)
        model[1].weight.copy_(filled(-2, 0.5, 1))
        model[3].weight.copy_(filled([1, -2, 3]))
    return model, trace(model, torch.randn(4, 2, dtype=F64))


class Sum(nn.Module):
    """Two layers whose outputs are added, and one that reads them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
        self.norm, self.out = nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0], [-4.0]]))
            self.b.weight.copy_(torch.tensor([[5.0], [2.0]]))
            self.norm.weight.copy_(torch.tensor([0.5, -0.25]))
            self.out.weight.copy_(torch.tensor([[2.0, 3.0]]))

    def forward(self, x):
        return self.out(self.norm(self.a(x)) + self.b(x))


def found(score, name="0", made=None):
    model, graph = made or chain()
    result = score(model, graph)
    assert result.keys() == {g.name for g in graph.free}
    assert result[name].dtype == F64
    return result[name].tolist()


def summed():
    model = Sum()
    return model, trace(model, torch.randn(4, 1))


def test_filter_norms():
    assert found(scores.FilterNorm(1)) == [7, 3, 2]
    assert found(scores.FilterNorm(2)) == [5, 3, pytest.approx(2**0.5)]
    assert found(scores.FilterNorm(1, normalise="mean")) == [7 / 4, 3 / 4, 2 / 4]
    assert found(scores.FilterNorm(1, normalise="max")) == [1, 3 / 7, 2 / 7]
    assert found(scores.FilterNorm(1, normalise="sum")) == [7 / 12, 3 / 12, 2 / 12]


def test_filter_norms_of_layers_that_are_added():
    assert found(scores.FilterNorm(1), "a", summed()) == [1 + 5, 4 + 2]
    assert found(scores.FilterNorm(1, members="mean"), "a", summed()) == [3, 3]


def test_fpgm_is_the_distance_to_all_others():
    """Filters (3, 4), (3, 0), (-1, 1): 4 apart, 5 apart, sqrt(17) apart."""
    near = 17**0.5
    assert found(scores.FPGM()) == pytest.approx([4 + 5, 4 + near, 5 + near])
    assert found(scores.FPGM(), "a", summed()) == [5 + 3, 5 + 3]


def test_fpgm_removes_the_filter_that_others_replace():
    model, graph = chain()
    with torch.no_grad():
        model[0].weight.copy_(filled([10, 0], [0, 0.1], [5, 0]))
    assert scores.FPGM()(model, graph)["0"].argmin() == 2  # not the smallest, which is 1


def test_slimming_is_the_scale():
    assert found(scores.Slimming()) == [2, 0.5, 1]
    assert found(scores.Slimming(), "a", summed()) == [0.5, 0.25]


def test_group_norm_averages_over_coupled_slices():
    """The filter's row, the norm's scale and the column that reads it; no bias."""
    squares = [(25 + 4 + 1) / 3, (9 + 0.25 + 4) / 3, (2 + 1 + 9) / 3]
    assert found(scores.GroupNorm(2, normalise="none")) == pytest.approx(squares)
    mean = sum(squares) / 3
    assert found(scores.GroupNorm()) == pytest.approx([s / mean for s in squares])
    sums = [(7 + 2 + 1) / 3, (3 + 0.5 + 2) / 3, (2 + 1 + 3) / 3]
    assert found(scores.GroupNorm(1, normalise="none")) == pytest.approx(sums)


def linear():
    """y = v (W x), so that every gradient is known: dL/dW = v x^T, dL/dv = W x, for L = mean y."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 1.0]]))
        model[2].weight.copy_(torch.tensor([[2.0, -1.0]]))
    batches = [(torch.tensor([[1.0, 1.0]]), None), (torch.tensor([[2.0, 0.0]]), None)]
    return (model, trace(model, batches[0][0])), batches


def mean(output, target):
    return output.mean()


def test_taylor_gate_is_squared_by_batch_and_averaged():
    """Hidden units (3, 4) and (2, 6); each gate's gradient is v * unit."""
    made, batches = linear()
    wanted = [(6**2 + 4**2) / 2, (4**2 + 6**2) / 2]
    assert found(scores.Taylor(mean, batches), made=made) == wanted


def test_taylor_of_weights():
    """w * g = v * w * x, squared and summed over the filter, averaged over batches."""
    made, batches = linear()
    first, second = (2**2 + 4**2, 3**2 + 1**2), (4**2, 6**2)
    wanted = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert found(scores.Taylor(mean, batches, "weights"), made=made) == wanted


class Stage(nn.Module):
    """A stem and `blocks` residual blocks of one layer."""

    def __init__(self, blocks):
        super().__init__()
        self.stem = nn.Linear(2, 3)
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(blocks))
        self.out = nn.Linear(3, 1)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(x)


def test_taylor_divides_a_tied_gate_by_its_blocks():
    """As the paper's code, by 3 in a ResNet-50's first stage."""
    model, batches = Stage(3), [(torch.randn(4, 2), None)]
    made = (model, trace(model, batches[0][0]))
    tied = found(scores.Taylor(mean, batches), "stem", made)
    whole = found(scores.Taylor(mean, batches, tied="sum"), "stem", made)
    assert whole == pytest.approx([3 * t for t in tied])


def test_three_sp_gate_on_weights_by_hand():
    """|sum w*g| over the filter: v * unit, since nothing stands between filter and output."""
    made, batches = linear()
    score = scores.ThreeSP(mean, batches[0], "weights", per_flop="none")
    assert found(score, made=made) == [6, 4]


def test_three_sp_gate_on_weights_is_noise_before_a_training_norm():
    model, graph = chain()
    batch = (torch.randn(16, 2, dtype=F64), None)
    target = torch.randn(16, 1, dtype=F64)

    def loss(output, _):
        return ((output - target) ** 2).mean()

    with torch.no_grad():
        model[0].bias.zero_()
    score = scores.ThreeSP(loss, batch, "weights", per_flop="none")
    with pytest.warns(UserWarning, match='"weights" is noise .* say training=False'):
        noise = score(model, graph)["0"]
    real = scores.ThreeSP(loss, batch, "weights", "none", training=False)(model, graph)["0"]
    assert noise.max() < 1e-3 * real.max()


def test_random_is_seeded_and_uniform():
    model = nn.Sequential(nn.Linear(2, 500), nn.ReLU(), nn.Linear(500, 400), nn.Linear(400, 1))
    graph = trace(model, torch.randn(2, 2))
    first = scores.Random(3)(model, graph)
    assert all(torch.equal(s, first[n]) for n, s in scores.Random(3)(model, graph).items())
    assert not torch.equal(scores.Random(4)(model, graph)["0"], first["0"])
    together = torch.cat(list(first.values()))
    assert 0 <= together.min() < 0.01 < 0.99 < together.max() < 1
    assert abs(together.mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scores.FilterNorm(3), "FilterNorm: p is one of 1, 2, got 3"),
        (lambda: scores.FilterNorm(members="max"), "members is one of sum, mean, got 'max'"),
        (lambda: scores.FPGM(normalise="l2"), "FPGM: normalise is one of none, mean, max, sum"),
        (lambda: scores.GroupNorm(0), "GroupNorm: p is one of 1, 2, got 0"),
        (lambda: scores.Taylor(mean, [], "both"), "Taylor: variant is one of gate, weights"),
        (lambda: scores.Taylor(mean, [])(*chain()), "Taylor: there are no batches"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
