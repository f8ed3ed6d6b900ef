import pytest
import torch
from torch import nn

from sparsetrain.methods import Magnitude, SparseGPT, Wanda
from sparsetrain.methods.calibrated import as_rows, columns, from_rows
from sparsetrain.selection import patterns

torch.manual_seed(0)
X = torch.randn(40, 8) * torch.linspace(0.1, 2, 8) + torch.randn(40, 1)
BATCHES = [X[:24], X[24:]]
KINDS = {"wanda": Wanda, "sparsegpt": SparseGPT}


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4)
    )


def started(method, model=None):
    model = model or network()
    method.start(model, torch.optim.SGD(model.parameters(), 0.1, 0.9))
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": "same"},
        {"groups": 2, "padding": (1, 0), "padding_mode": "reflect"},
        {"groups": 4},
    ],
    ids=str,
)
def test_a_convolution_is_a_linear_layer_of_its_columns(options):
    layer = nn.Conv2d(4, 8, (3, 2), bias=False, **options).double()
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64)
    rows = as_rows(layer.weight, layer.groups)
    wanted = layer(x)
    found = (rows @ columns(layer, x)).flatten(0, 1).view(8, 3, *wanted.shape[2:]).movedim(0, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(from_rows(rows, layer.weight), layer.weight)


def test_wanda_by_hand():
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, -1.0, 1.0, -1.0]])
    x = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 1.0, 0.0, 5.0]])  # norms 1, 1, 3, 29^0.5
    wanted = {  # 4, 3, 6, 5.4 and 1, 1, 3, 5.4
        patterns.Unstructured(): [[False, False, True, True], [False, False, True, True]],
        patterns.NM(1, 2): [[True, False, True, False], [True, False, False, True]],
    }
    for pattern, masks in wanted.items():
        method = Wanda(0.5, [x], pattern=pattern)
        before = model.weight.detach().clone()
        method.start(model, torch.optim.SGD(model.parameters(), 0.1))
        assert method.masks["weight"].tolist() == masks
        assert torch.equal(model.weight, before * method.masks["weight"])
        model.weight.data = before


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.77])
def test_wanda_removes_the_same_from_each_row(sparsity):
    method = Wanda(sparsity, BATCHES)
    started(method)
    for mask in method.masks.values():
        width = mask.shape[1]
        assert (mask.sum(1) == width - int(width * sparsity)).all()


def test_layers_see_what_the_pruned_ones_before_make():
    model, dense = network(), network()
    method = Wanda(0.5, BATCHES)
    started(method, model)
    hidden = model[:4](X).detach()
    score = dense[4].weight.detach().abs() * hidden.square().sum(0).sqrt()
    lowest = score.sort(1).values[:, :6].amax(1)
    assert (score[method.masks["4.weight"]].view(4, 6).amin(1) >= lowest).all()


def test_layers_are_taken_in_the_order_they_run_in():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(8, 4), nn.Linear(8, 8)

        def forward(self, x):
            return self.last(torch.relu(self.first(x)))

    model = Backwards()
    method = Wanda(0.5, BATCHES)
    dense = model.last.weight.detach().clone()
    started(method, model)
    hidden = torch.relu(model.first(X)).detach()
    score = dense.abs() * hidden.square().sum(0).sqrt()
    lowest = score.sort(1).values[:, :4].amax(1)
    assert (score[method.masks["last.weight"]].view(4, 4).amin(1) >= lowest).all()


def test_sparsegpt_by_hand():
    # H = [[2, 1], [1, 2]] + damp; removing w_1 moves w_2 by w_1 * H_12 / H_22.
    x = torch.linalg.cholesky(torch.tensor([[1.0, 0.5], [0.5, 1.0]])).T.contiguous() * 2**0.5
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 3.0]])
    method = SparseGPT(0.5, [x], damp=1e-9)
    started(method, model)
    assert method.masks["weight"].tolist() == [[False, True]]
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.0, 3.5]]))


def test_sparsegpt_takes_the_best_of_what_is_left_for_columns_decided_first():
    """With one block all rows share, what stays right of a zero is the least-squares answer."""
    torch.manual_seed(1)
    model = nn.Linear(6, 1, bias=False).double()
    x = torch.randn(50, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    with torch.no_grad():
        model.weight[0, 0] = 1e-4  # the column that goes
    dense = model.weight.detach().clone()
    method = SparseGPT(1 / 6, [x], damp=1e-12)
    started(method, model)
    assert method.masks["weight"].tolist() == [[False] + [True] * 5]
    best = torch.linalg.lstsq(x[:, 1:], x @ dense.T).solution.T
    torch.testing.assert_close(model.weight.detach()[:, 1:], best, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pattern", [patterns.Unstructured(), patterns.NM(2, 4)])
@pytest.mark.parametrize("block", [16, 128])
def test_sparsegpt_is_nearer_to_the_dense_layer_than_magnitude(pattern, block):
    torch.manual_seed(0)
    x = torch.randn(300, 48) + torch.randn(300, 6) @ torch.randn(6, 48)
    dense = nn.Linear(48, 16)
    wanted, errors = dense(x), []
    for method in (
        SparseGPT(0.5, [x], pattern=pattern, block=block),
        Wanda(0.5, [x], pattern=pattern),
        Magnitude(0.5, pattern=pattern),
    ):
        model = nn.Linear(48, 16)
        model.load_state_dict(dense.state_dict())
        started(method, model)
        assert int(method.masks["weight"].sum()) == 48 * 16 / 2
        errors.append((model(x) - wanted).detach().square().sum())
    assert errors[0] < 0.5 * min(errors[1:])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_convolutions_keep_n_of_m_inputs(kind):
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 4)
    )
    method = kind(0.5, [torch.randn(5, 4, 6, 6)], pattern=patterns.NM(2, 4))
    started(method, model)
    for name, mask in method.masks.items():
        groups = mask.movedim(1, -1).unflatten(-1, (-1, 4))
        assert (groups.sum(-1) == 2).all()
        assert (model.get_parameter(name)[~mask] == 0).all()


@pytest.mark.parametrize(
    "options", [{}, {"allocation": "erk"}, {"floor": {"4.weight": 0.5}}, {"block": 5}]
)
def test_sparsegpt_keeps_exactly_k(options):
    method = SparseGPT(0.7, BATCHES, **options)
    started(method)
    assert sum(int(m.sum()) for m in method.masks.values()) == 448 - round(0.7 * 448)
    counts = method._state.amounts.kept(0.7)
    assert {n: int(m.sum()) for n, m in method.masks.items()} == counts


def test_grouped_convolutions_keep_exactly_k():
    model = nn.Sequential(nn.Conv2d(6, 9, 3, groups=3), nn.Conv2d(9, 9, 1, groups=9))
    method = SparseGPT(0.4, [torch.randn(4, 6, 5, 5)], floor={"1.weight": 1.0})
    started(method, model)
    assert sum(int(m.sum()) for m in method.masks.values()) == 171 - round(0.4 * 171)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_inputs_that_are_never_active_lose_their_weights(kind):
    x = X.clone()
    x[:, [1, 4, 5]] = 0
    method = kind(0.375, [x])
    model = started(method, nn.Linear(8, 20))
    assert not model.weight[:, [1, 4, 5]].any()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_tied_layers_count_all_their_inputs(kind):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x, scale):
            return self.b(self.a(x) * scale)

    model = Twice()
    method = kind(0.5, [{"x": X, "scale": torch.ones(8)}, (X, torch.zeros(8))])
    started(method, model)
    assert model.a.weight is model.b.weight
    assert int(method.masks["a.weight"].sum()) == 32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Wanda(0.5, []), "Wanda: needs at least one batch of inputs"),
        (
            lambda: Wanda(0.5, [X], allocation="erk"),
            "every row loses the same share, .* 'erk', 0.0",
        ),
        (lambda: SparseGPT(0.5, [X], allocation="global"), "SparseGPT: .* no global allocation"),
        (lambda: SparseGPT(0.5, [X], block=0), "block >= 1 and damp > 0, got 0, 0.01"),
        (lambda: SparseGPT(0.5, [X], 2, pattern=patterns.NM(2, 4)), "must fit into block=2"),
        (lambda: Wanda(0.5, [X], pattern=patterns.Vector(4)), "it takes Unstructured, NM"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_layers_that_have_no_meaning_here_are_errors():
    with pytest.raises(ValueError, match="0.weight is a Conv1d's; it takes Linear and Conv2d"):
        started(Wanda(0.5, [X]), nn.Sequential(nn.Conv1d(2, 2, 1)))
    model = network()
    model[0].unused = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="layer of 0.unused.weight is not called on the batches"):
        started(Wanda(0.5, [X]), model)
