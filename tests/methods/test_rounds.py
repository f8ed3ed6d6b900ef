import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparsetrain.methods import FORCE, SNIP, IterSNIP, SynFlow
from sparsetrain.selection import patterns

X, Y = torch.randn(24, 8), torch.arange(24) % 3
BATCHES = [(X[:12], Y[:12]), (X[12:], Y[12:])]
KINDS = {
    "synflow": lambda s, **more: SynFlow(s, X, **more),
    "iter-snip": lambda s, **more: IterSNIP(s, cross_entropy, BATCHES, **more),
    "force": lambda s, **more: FORCE(s, cross_entropy, BATCHES, **more),
}


def network(bias=True):
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(8, 16, bias),
        nn.ReLU(),
        nn.Linear(16, 12, bias),
        nn.ReLU(),
        nn.Linear(12, 4, bias),
    )


def images():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 2, bias=False),
        nn.ReLU(), nn.Flatten(), nn.Linear(16, 5, bias=False),
    )  # fmt: skip


def started(method, model=None):
    model = model or network()
    method.start(model, torch.optim.SGD(model.parameters(), 0.1, 0.9))
    return model


def flat(masks):
    return torch.cat([m.flatten() for m in masks.values()])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 1},
        {"schedule": "linear", "rounds": 7},
        {"allocation": "erk", "rounds": 5},
        {"pattern": patterns.Block(2, 2), "rounds": 4},
    ],
    ids=str,
)
def test_keeps_exactly_k(name, options):
    method = KINDS[name](0.75, **options)
    model = started(method)
    assert int(flat(method.masks).sum()) == 92  # of 368
    assert all((model.get_parameter(n)[~m] == 0).all() for n, m in method.masks.items())


@pytest.mark.parametrize("name", KINDS)
def test_looking_leaves_no_trace(name):
    model = network()
    model.append(nn.BatchNorm1d(4))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    started(KINDS[name](0.0, rounds=2), model)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert model.training


def test_synflow_by_hand():
    # |W2| |W1| 1 with |W1| = [[1, 2], [3, 0.5]], |W2| = [[2, 1]]: scores are W1 * W2 and W2 * rows
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [-3.0, 0.5]]))
        model[2].weight.copy_(torch.tensor([[-2.0, 1.0]]))
    method = SynFlow(0.5, torch.zeros(7, 2), rounds=1)
    ones = {"0.weight": torch.ones(2, 2), "2.weight": torch.ones(1, 2)}
    started(method, model)
    scores = method.flow(ones)
    # The model is pruned now; what is left flows 2 * 2 and 1 * 3.
    assert method.masks["0.weight"].tolist() == [[False, True], [False, False]]
    assert method.masks["2.weight"].tolist() == [[True, True]]
    assert scores["2.weight"].tolist() == [[4.0, 0.0]]


@pytest.mark.parametrize(("make", "sample"), [(network, X), (images, torch.zeros(2, 3, 8, 8))])
def test_synflow_conserves_scores(make, sample):
    """Each layer's scores sum to the flow, each hidden unit's incoming to its outgoing."""
    model = make(bias=False) if make is network else make()
    method = SynFlow(0.0, sample)
    started(method, model)
    torch.manual_seed(1)
    for density in (1.0, 0.6):
        masks = {n: torch.rand(m.shape) < density for n, m in method.masks.items()}
        scores = list(method.flow(masks).values())
        sums = torch.stack([s.sum() for s in scores])
        torch.testing.assert_close(sums, sums[:1].expand_as(sums), rtol=1e-12, atol=0)
        into, out = scores[0].flatten(1).sum(1), scores[1].movedim(1, 0).flatten(1).sum(1)
        torch.testing.assert_close(into, out, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kept", [3, 4, 6, 10, 40])
def test_synflow_never_collapses_a_layer(kept):
    """Down to one weight in each layer, where magnitude or SNIP would empty one."""
    method = SynFlow(1 - kept / 368, X)
    started(method, network(bias=False))
    assert int(flat(method.masks).sum()) == kept
    assert all(m.any() for m in method.masks.values())


class Around(nn.Module):
    """A layer with a way around it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.inner, self.last = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.inner.weight.data.mul_(1e-3)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + torch.relu(self.inner(x)))


def test_synflow_may_empty_a_layer_that_flow_goes_around():
    method = SynFlow(0.9, X)
    started(method, Around())
    assert [bool(m.any()) for m in method.masks.values()] == [True, False, True]
    assert float(method.flow(method.masks)["last.weight"].sum()) > 0


def test_synflow_that_cuts_the_network_is_an_error():
    with pytest.raises(ValueError, match="SynFlow: the largest score is 0.0; nothing or too much"):
        started(SynFlow(367 / 368, X), network(bias=False))


def test_synflow_scores_beyond_the_range_of_fp32():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(8, 8, bias=False) for _ in range(30)])
    with torch.no_grad():
        for layer in model:
            layer.weight.mul_(1e3)
    method = SynFlow(0.9, torch.zeros(1, 8), rounds=10)
    started(method, model)
    assert float(method.flow(method.masks)["0.weight"].sum()) > 1e60


def test_synflow_takes_dicts_and_tokens():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.last = nn.Embedding(7, 6), nn.Linear(6, 3)

        def forward(self, tokens, scale):
            return {"logits": self.last(self.table(tokens).mean(1) * scale)}

    sample = {"tokens": torch.tensor([[1, 2], [3, 4]]), "scale": torch.zeros(2, 1)}
    with pytest.warns(
        UserWarning, match=r"reach 30% of the weights; .* table.weight \(70%, an emb"
    ):
        started(SynFlow(0.5, sample), Tokens())
    method = SynFlow(0.5, sample, exclude=nn.Embedding)
    started(method, Tokens())
    assert int(method.masks["last.weight"].sum()) == 9


def test_iter_snip_prunes_by_the_network_that_is_left():
    """Three rounds written out, by gradients of the model itself."""
    model, reference = network(), network()
    names = [n for n, p in reference.named_parameters() if p.dim() > 1]
    weights = [reference.get_parameter(n) for n in names]
    mask = torch.ones(368, dtype=torch.bool)
    for r in (1, 2, 3):
        loss = sum(cross_entropy(reference(x), y) for x, y in BATCHES)
        grads = torch.autograd.grad(loss, weights)
        score = torch.cat([(w * g).abs().flatten() for w, g in zip(weights, grads, strict=True)])
        k = 368 - round(368 * (1 - 0.2 ** (r / 3)))
        best = score.masked_fill(~mask, -1).argsort(descending=True, stable=True)[:k]
        mask = torch.zeros_like(mask).index_fill(0, best, True)
        with torch.no_grad():
            for w, m in zip(weights, mask.split([w.numel() for w in weights]), strict=True):
                w.mul_(m.view_as(w))
    method = IterSNIP(0.8, cross_entropy, BATCHES, rounds=3, reuse=True)
    started(method, model)
    assert (flat(method.masks) != mask).sum() <= 2  # sums of the batches round differently


def test_force_lets_weights_return():
    model, dense = network(), network()
    weights = {n: p.detach() for n, p in dense.named_parameters() if p.dim() > 1}
    first = IterSNIP(1 - 0.1**0.5, cross_entropy, BATCHES, rounds=1, reuse=True)
    started(first, model)  # the first round is SNIP's for both
    loss = sum(cross_entropy(model(x), y) for x, y in BATCHES)
    grads = torch.autograd.grad(loss, [model.get_parameter(n) for n in weights])
    score = torch.cat(
        [(w * g).abs().flatten() for w, g in zip(weights.values(), grads, strict=True)]
    )
    best = score.argsort(descending=True, stable=True)[: 368 - round(368 * 0.9)]
    wanted = torch.zeros(368, dtype=torch.bool).index_fill(0, best, True)
    method = FORCE(0.9, cross_entropy, BATCHES, rounds=2, reuse=True)
    model = started(method)
    assert (flat(method.masks) != wanted).sum() <= 2
    assert (flat(method.masks) & ~flat(first.masks)).any()
    for name, mask in method.masks.items():  # what returned has its own value
        assert torch.equal(model.get_parameter(name), weights[name] * mask)


def test_one_round_is_snip():
    for kind in (IterSNIP, FORCE):
        found = []
        for method in (
            kind(0.7, cross_entropy, BATCHES, rounds=1, per_round=2),
            SNIP(0.7, cross_entropy, BATCHES, training=True),
        ):
            started(method)
            found.append(flat(method.masks))
        assert torch.equal(*found)


def plain_rounds(monotone, rounds, batches):
    """The code's loop in its own words: a new batch for each gradient, d^(k/T) of all are kept."""
    model = network()
    dense = [p.detach().clone() for p in model.parameters() if p.dim() > 1]
    weights = [p for p in model.parameters() if p.dim() > 1]
    mask = torch.ones(368, dtype=torch.bool)
    for k in range(1, rounds + 1):
        x, y = batches[(k - 1) % len(batches)]
        grads = torch.autograd.grad(cross_entropy(model(x), y), weights)
        by = weights if monotone else dense
        score = torch.cat([(w * g).abs().flatten() for w, g in zip(by, grads, strict=True)])
        score = score.masked_fill(~mask, -1) if monotone else score
        kept = 368 - round(368 * (1 - 0.2 ** (k / rounds)))
        mask = torch.zeros_like(mask).index_fill(0, score.topk(kept).indices, True)
        with torch.no_grad():
            parts = mask.split([w.numel() for w in weights])
            for w, d, m in zip(weights, dense, parts, strict=True):
                w.copy_(d * m.view_as(d))
    return mask


@pytest.mark.parametrize("kind", [IterSNIP, FORCE])
def test_each_round_sees_new_data(kind):
    torch.manual_seed(5)
    many = [(torch.randn(12, 8), torch.arange(12) % 3) for _ in range(4)]
    for batches in (many, many[:2]):
        method = kind(0.8, cross_entropy, batches, rounds=4)
        started(method)
        wanted = plain_rounds(kind is IterSNIP, 4, batches)
        assert torch.equal(flat(method.masks), wanted)


def test_rounds_draw_from_a_generator_what_they_need():
    def endless():
        while True:
            drawn.append(len(drawn))
            yield X, Y

    drawn = []
    started(FORCE(0.5, cross_entropy, endless(), rounds=3, per_round=2))
    assert len(drawn) == 6
    short = iter(BATCHES)
    with pytest.raises(ValueError, match="needs 3 batches for 3 rounds of 1, .* gives 2, not from"):
        started(IterSNIP(0.5, cross_entropy, short, rounds=3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SynFlow(0.5, X, rounds=0), "SynFlow: rounds must be 1 or more, got 0"),
        (lambda: FORCE(0.5, cross_entropy, BATCHES, 0), "FORCE: rounds must be 1 or more, got 0"),
        (lambda: FORCE(0.5, cross_entropy, BATCHES, per_round=0), "per_round must be 1 or more"),
        (lambda: SynFlow(0.5, X, schedule="cubic"), "schedule is one of exponential, linear, got"),
        (lambda: FORCE(0.5, cross_entropy, BATCHES, pattern=patterns.NM(2, 4)), "has no meaning"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_network_in_which_nothing_flows_is_an_error():
    model = network(bias=False)
    nn.init.zeros_(model[2].weight)
    with pytest.raises(ValueError, match="SynFlow: the largest score is 0.0; nothing or too much"):
        started(SynFlow(0.5, X), model)
