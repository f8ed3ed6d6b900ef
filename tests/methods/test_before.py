import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from sparsetrain.methods import SNIP, GraSP, Magnitude, ProsPr, Random
from sparsetrain.selection import patterns

X, Y = torch.randn(24, 8), torch.arange(24) % 3
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]
TOTAL = 8 * 16 + 16 * 16 + 16 * 4


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(),
        nn.Linear(16, 4),
    )  # fmt: skip


def convolutions():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Softplus(), nn.Flatten(), nn.Linear(32, 4)
    )


def started(method, model=None):
    model = model or network()
    method.start(model, torch.optim.SGD(model.parameters(), 0.1, 0.9))
    return model


def kept(method):
    return sum(int(m.sum()) for m in method.masks.values())


def linear(*weights):
    """A chain of linear layers without bias, with these weights."""
    weights = [torch.tensor(w) for w in weights]
    model = nn.Sequential(*[nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights])
    with torch.no_grad():
        for layer, w in zip(model, weights, strict=True):
            layer.weight.copy_(w)
    return model


ALL = {
    "random": lambda s, **more: Random(s, **more),
    "magnitude": lambda s, **more: Magnitude(s, **more),
    "snip": lambda s, **more: SNIP(s, cross_entropy, BATCHES, **more),
    "grasp": lambda s, **more: GraSP(s, cross_entropy, BATCHES, **more),
    "prospr": lambda s, **more: ProsPr(s, cross_entropy, BATCHES, **more),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "options",
    [{}, {"allocation": "erk"}, {"floor": 0.1}, {"pattern": patterns.Vector(4), "floor": 0.1}],
    ids=str,
)
def test_keeps_exactly_k(name, options):
    method = ALL[name](0.75, **options)
    model = started(method)
    assert kept(method) == TOTAL // 4
    for parameter, mask in ((model.get_parameter(n), m) for n, m in method.masks.items()):
        assert (parameter[~mask] == 0).all()
        assert (parameter[mask] != 0).all()


@pytest.mark.parametrize("name", ALL)
def test_keeps_n_of_m(name):
    method = ALL[name](0.5, pattern=patterns.NM(2, 4))
    started(method)
    for mask in method.masks.values():
        assert (mask.unflatten(1, (-1, 4)).sum(2) == 2).all()


@pytest.mark.parametrize("name", ["snip", "grasp", "prospr"])
def test_looking_leaves_no_trace(name):
    model = network()
    model.append(nn.Dropout(0.5))
    model[3].weight.requires_grad_(False)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    method = ALL[name](0.0, training=True)
    started(method, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not model[3].weight.requires_grad


def test_random_depends_on_seed_alone():
    masks = []
    for seed, draws in ((0, 0), (0, 5), (1, 0)):
        torch.rand(draws)
        method = Random(0.5, seed)
        started(method)
        masks.append(torch.cat([m.flatten() for m in method.masks.values()]))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_magnitude_by_hand():
    model = linear([[1.0, -4.0], [0.5, 2.0]], [[3.0, -0.25]])
    method = Magnitude(0.5)
    started(method, model)
    assert method.masks["0.weight"].tolist() == [[False, True], [False, True]]
    assert method.masks["1.weight"].tolist() == [[True, False]]


def test_magnitude_after_training_prunes_what_was_learnt():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    method = Magnitude(0.9, at=2)
    method.start(model, optimizer)
    for step in range(4):
        cross_entropy(model(X), Y).backward()
        method.after_backward()
        optimizer.step()
        size = torch.cat([model.get_parameter(n).detach().flatten() for n in method.masks]).abs()
        method.after_step()
        if step == 1:
            mask = torch.cat([m.flatten() for m in method.masks.values()])
            assert size[mask].min() >= size[~mask].max()
        assert kept(method) == (TOTAL if step < 1 else round(TOTAL * 0.1))
    method.finish()


def test_magnitude_that_ends_too_early_warns():
    method = Magnitude(0.9, at=2)
    started(method)
    with pytest.warns(UserWarning, match="ended at step 0, before the pruning at step 2"):
        method.finish()


def test_snip_by_hand():
    # y = a * (w . x), loss y: dL/dw = a * x, dL/da = w . x
    model = linear([[1.0, -4.0]], [[3.0]])
    batch = (torch.tensor([[5.0, 0.1]]), None)
    method = SNIP(1 / 3, lambda y, _: y.sum(), [batch])
    started(method, model)  # |w * g| is 15, 1.2 and 13.8
    assert [m.tolist() for m in method.masks.values()] == [[[True, False]], [[True]]]


def test_snip_scores_by_running_statistics_by_default():
    found = []
    for options in ({}, {"training": False}, {"training": True}):
        model = network()
        model[1].running_mean.copy_(torch.linspace(-2, 2, 16))
        method = SNIP(0.5, cross_entropy, BATCHES, **options)
        started(method, model)
        found.append(torch.cat([m.flatten() for m in method.masks.values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_grasp_by_hand():
    # loss = (w . x - t)^2 / 2 with x = (1, 2): H = x x^T, g = r * x, Hg = 5 r * x
    model = linear([[1.0, -1.0]])
    batch = (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0]]))  # r = -2
    method = GraSP(
        0.5, lambda y, t: mse_loss(y, t) / 2, [batch], temperature=1.0, reinit_linear=False
    )
    started(method, model)  # -w * Hg = (10, -20): the first is removed
    assert method.masks["0.weight"].tolist() == [[False, True]]


def test_grasp_removes_the_largest():
    """-w * Hg by a Hessian written out, in float64."""
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    method = GraSP(0.6, cross_entropy, [(X.double(), Y)], reinit_linear=False)

    def loss(flat):
        first, second = flat[:48].view(6, 8), flat[48:].view(4, 6)
        hidden = torch.tanh(X.double() @ first.T + model[0].bias.detach())
        return cross_entropy((hidden @ second.T + model[2].bias.detach()) / 200, Y)

    flat = torch.cat([model[i].weight.detach().flatten() for i in (0, 2)])
    gradient = torch.autograd.functional.jacobian(loss, flat)
    score = -flat * (torch.autograd.functional.hessian(loss, flat) @ gradient)
    started(method, model)
    mask = torch.cat([m.flatten() for m in method.masks.values()])
    assert int(mask.sum()) == round(0.4 * 72)
    assert score[mask].max() <= score[~mask].min()


def test_grasp_sums_gradients_over_batches_before_the_product():
    whole = (torch.cat([X[:8], X[:8]]), torch.cat([Y[:8], Y[:8]]))
    found = []
    for batches in ([BATCHES[0], BATCHES[0]], [whole]):
        method = GraSP(0.6, cross_entropy, batches, training=False)
        started(method)
        found.append(torch.cat([m.flatten() for m in method.masks.values()]))
    assert (found[0] != found[1]).sum() <= 2  # twice the same half, but for rounding


def test_grasp_scores_linear_layers_afresh_and_leaves_them():
    masks = []
    for options in ({"reinit_linear": False}, {"seed": 0}, {"seed": 1}, {"seed": 1}):
        model = network()
        method = GraSP(0.6, cross_entropy, BATCHES, **options)
        started(method, model)
        masks.append(torch.cat([m.flatten() for m in method.masks.values()]))
        weight, own = model[3].weight, network()[3].weight
        assert torch.equal(weight, own * method.masks["3.weight"])
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])
    assert torch.equal(masks[2], masks[3])


def test_prospr_by_hand():
    # Loss (w m - t)^2 / 2 of each: w1 = w m - lr (w m - t), dL(w1)/dm = (1 - lr)^2 (w - t) w
    model = linear([[1.0, 3.0]])
    batch = (torch.eye(2), torch.tensor([[2.0], [2.5]]))
    loss_fn = lambda y, t: (y - t).square().sum() / 2  # noqa: E731
    method = ProsPr(0.5, loss_fn, [batch], steps=1, inner_lr=0.5)
    started(method, model)  # 0.25 * |(1 - 2) * 1| against 0.25 * |(3 - 2.5) * 3|
    assert method.masks["0.weight"].tolist() == [[False, True]]


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_prospr_is_the_gradient_through_training(first_order, momentum):
    torch.manual_seed(0)
    w = torch.randn(3, 8)
    model = linear(w.tolist())
    options = {"inner_lr": 0.5, "inner_momentum": momentum, "first_order": first_order}
    method = ProsPr(0.5, cross_entropy, BATCHES, steps=4, **options)
    gate = torch.ones_like(w, requires_grad=True)
    now, speed = w * gate, None
    for k in range(4):
        x, y = BATCHES[k % 3]
        loss = cross_entropy(x @ now.T, y)
        (grad,) = torch.autograd.grad(loss, now, create_graph=not first_order)
        if momentum:
            grad = grad.detach() if speed is None else 0.9 * speed + grad
            speed = grad
        now = now - 0.5 * grad
    x, y = BATCHES[4 % 3]
    (score,) = torch.autograd.grad(cross_entropy(x @ now.T, y), gate)
    started(method, model)
    mask = method.masks["0.weight"]
    assert score.abs()[mask].min() >= score.abs()[~mask].max()


def test_prospr_of_no_steps_is_snip():
    found = []
    for method in (
        ProsPr(0.7, cross_entropy, BATCHES[:1], steps=0),
        SNIP(0.7, cross_entropy, BATCHES[:1], training=True),
    ):
        started(method)
        found.append(torch.cat([m.flatten() for m in method.masks.values()]))
    assert (found[0] != found[1]).sum() <= 2  # rounding of two formulas


@pytest.mark.parametrize("name", ["snip", "grasp", "prospr"])
def test_convolutions_in_channels(name):
    x, y = torch.randn(6, 4, 4, 4), torch.arange(6) % 4
    kinds = {"snip": SNIP, "grasp": GraSP, "prospr": ProsPr}
    method = kinds[name](0.5, cross_entropy, [(x, y)], pattern=patterns.Channel(), floor=0.25)
    started(method, convolutions())
    for mask in method.masks.values():
        rows = mask.flatten(1)
        assert (rows.all(1) | ~rows.any(1)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SNIP(0.5, cross_entropy, []), "SNIP: needs at least one batch"),
        (lambda: GraSP(0.5, cross_entropy, BATCHES, 0.0), "temperature must be positive, got 0.0"),
        (lambda: ProsPr(0.5, cross_entropy, BATCHES, -1), "steps >= 0, .* got -1, 0.1, 0.0"),
        (lambda: Magnitude(0.5, at=-1), "at is a number of steps, 0 or more, got -1"),
        (lambda: SNIP(0.6, cross_entropy, BATCHES, pattern=patterns.NM(2, 4)), "is sparsity 0.5"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_loss_that_is_no_number_is_an_error():
    method = SNIP(0.5, lambda y, t: cross_entropy(y, t) * torch.nan, BATCHES)
    with pytest.raises(ValueError, match="SNIP: the loss on a batch is nan"):
        started(method)


def test_a_loss_without_gradient_is_an_error():
    method = SNIP(0.5, lambda y, t: cross_entropy(y.detach(), t), BATCHES)
    with pytest.raises(ValueError, match="SNIP: the loss on a batch does not depend on any weight"):
        started(method)
