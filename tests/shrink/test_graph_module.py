"""`apply(as_graph=True)`: the recorded operations in the smaller network's sizes."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from sparsetrain import plan
from sparsetrain.shrink.apply import entries
from sparsetrain.shrink.record import record
from sparsetrain.shrink.replay import replay
from sparsetrain.shrink.trace import follow


def first_half(model, graph):
    return {g.name: torch.arange(g.width, 0, -1.0) for g in graph.free}


def halved(model, sample):
    return plan(model, sample, first_half, channels=0.5, round_to=1)


class Literal(nn.Module):
    """A width written into forward: after shrinking, the code does not run."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 8), nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).view(-1, 16))


class Attention(nn.Module):
    """The width of a head is that of the input, divided: windows put the batch among others."""

    def __init__(self):
        super().__init__()
        self.stem, self.qkv, self.out = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        n, t, c = x.shape
        windows = x.reshape(n * 2, t // 2, c)
        qkv = self.qkv(windows).reshape(n * 2, t // 2, 3, 4, c // 4)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, c))
        return self.head(x.mean(1))


def images(n=2):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))


def test_a_model_that_does_not_run_in_place_does_as_a_graph():
    model = Literal().eval()
    removal = halved(model, images())
    where = r"8x4\), first at aten.view in test_graph_module.py:\d+; apply.as_graph=True"
    with pytest.raises(RuntimeError, match=where):
        removal.apply()
    wanted = copy.deepcopy(model)
    with torch.no_grad():
        wanted.b.weight[:, 8:] = 0
    held = dict(model.named_parameters())
    assert removal.verify(as_graph=True) < 1e-5
    small = removal.apply(as_graph=True)

    shared = dict(small.named_parameters())
    assert list(shared) == list(held)
    assert all(shared[name] is held[name] for name in held)
    assert small.state_dict().keys() == model.state_dict().keys()
    assert tuple(held["a.weight"].shape) == (8, 3, 8, 8)
    for n in (1, 2, 5):
        torch.testing.assert_close(small(images(n)), wanted(images(n)))


def test_batch_norm_has_its_two_modes():
    model = Literal()
    small = halved(model, images()).apply(as_graph=True)
    assert small.training
    mean = model.norm.running_mean.clone()
    small.eval()(images(4))
    assert torch.equal(model.norm.running_mean, mean)
    normal = small.train()(images(4))
    assert not torch.equal(model.norm.running_mean, mean)
    normal.sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    small.norm.eval()
    mean = model.norm.running_mean.clone()
    small(images(4))
    assert torch.equal(model.norm.running_mean, mean)


def test_the_batch_may_stand_among_other_dimensions():
    model = Attention().eval()
    x = torch.randn(3, 8, 6)
    removal = halved(model, x)
    assert removal.verify(as_graph=True) < 1e-5
    small = removal.apply(as_graph=True)
    each = torch.cat([small(row[None]) for row in x])
    torch.testing.assert_close(small(x), each)


@dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple


pytree.register_pytree_node(
    Output, lambda o: ([o.logits, o.hidden], None), lambda leaves, _: Output(*leaves)
)


class Nested(Literal):
    def forward(self, pair, scale, extra=None):
        y = super().forward(pair[0] + pair[1]["x"]) * scale
        return Output(y, (y, None)) if extra is None else {"y": [y, extra]}


def test_what_goes_in_and_comes_out_keeps_its_structure():
    model, pair = Nested().eval(), (images(), {"x": images(3)[:2]})
    small = halved(model, (pair, 2.0)).apply(as_graph=True)
    out = small(pair, 2.0)
    assert isinstance(out, Output)
    assert out.hidden[0] is out.logits
    assert out.hidden[1] is None

    model = Nested().eval()
    named = {"pair": pair, "scale": 2.0, "extra": torch.ones(3)}
    small = halved(model, named).apply(as_graph=True)
    out = small(**named)
    assert out["y"][0].shape == (2, 4)
    assert torch.equal(out["y"][1], torch.ones(3))


class Strided(nn.Module):
    """Every second channel, and constants that forward makes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x):
        y = self.a(x) * torch.tensor([2.0])
        return self.b(y[:, ::2] + y[:, 1::2].relu_())


def test_constants_and_strided_slices():
    model = Strided().eval()
    removal = halved(model, torch.randn(2, 6))
    assert removal.verify(as_graph=True) < 1e-5
    small = removal.apply(as_graph=True)
    assert small.state_dict().keys() == model.state_dict().keys()
    assert small(torch.randn(7, 6)).shape == (7, 3)


def test_a_failed_proof_puts_everything_back():
    model = Literal()
    removal = halved(model, images())
    made = next(m for m in removal.graph["a"].members if not m.consumes)
    made.index.copy_(made.index.roll(1, 0))  # rows of the next channel
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="the shrunk model fails its proof"):
        removal.apply(as_graph=True)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


class Pyramid(nn.Module):
    """Widths, lengths and counts of entries as numbers, for pictures of any size."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x):
        y = self.a(x)
        n, _, h, w = y.shape
        y = y + nn.functional.interpolate(self.b(nn.functional.avg_pool2d(y, 2)), (h, w))
        tokens = y.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).view(n, h * w, 3, 4, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.mT / (h * w) ** 0.5).softmax(-1) @ v
        tokens = tokens + mixed.transpose(1, 2).reshape(n, h * w, 16)
        place = torch.arange(h * w + 1)[1:].view(1, -1, 1) / 100
        return self.out((tokens + place).view(n, h, w, 16)).permute(0, 3, 1, 2)


class Sentences(nn.Module):
    """A token before the others, and windows of a sequence."""

    def __init__(self):
        super().__init__()
        self.embed, self.token = nn.Embedding(9, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.mix, self.out = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, ids, mask):
        x = self.embed(ids) * mask[..., None]
        n, t, _ = x.shape
        windows = self.mix(x.view(n * (t // 2), 2, 16)).view(n, t, 16)
        x = torch.cat([self.token.expand(n, -1, -1), x + windows], 1)
        return self.out(x.reshape(n * (t + 1), 16)).view(n, t + 1, 3)


def sentences(n, t):
    ids = torch.randint(9, (n, t), generator=torch.Generator().manual_seed(n * t))
    return ids, (ids > 2).float()


PICTURES = [torch.randn(n, 3, h, w) for n, h, w in ((1, 16, 16), (3, 24, 16), (2, 8, 40))]
SIZED = {
    "pictures": (Pyramid, (PICTURES[0],), [(x,) for x in PICTURES]),
    "sentences": (
        Sentences,
        sentences(1, 6),
        [sentences(n, t) for n, t in ((1, 6), (3, 10), (2, 4))],
    ),
}


@pytest.mark.parametrize("name", SIZED)
def test_a_graph_of_one_sample_runs_at_other_sizes(name):
    make, sample, others = SIZED[name]
    torch.manual_seed(0)
    model = make()
    wanted = copy.deepcopy(model)
    removal = plan(model, sample, first_half, widths={}, round_to=1)
    removal = removal.keeping({g.name: [*range(1, g.width, 2)] for g in removal.graph.free})
    assert removal.graph.free
    small = removal.apply(as_graph=True)
    kept = {n: tuple(p.shape) for n, p in small.named_parameters()}
    assert kept != {n: tuple(p.shape) for n, p in wanted.named_parameters()}
    for given in others:
        for mode in (False, True):
            found = small.train(mode)(*given)
            assert found.shape == wanted(*given).shape
            found.square().mean().backward()
    assert all(p.grad.shape == p.shape for p in small.parameters())
    for given in others:
        expected = masked_outputs(make, removal, sample, given)
        torch.testing.assert_close(small.eval()(*given), expected)


def masked_outputs(make, removal, sample, given):
    """Those of the whole network with the removed channels cut, at this input's own size."""
    torch.manual_seed(0)
    model = make()
    walk = follow(record(model, given))
    with torch.no_grad():
        return replay(walk, model, given, entries(removal.graph, removal.kept))[0]


def test_auto_takes_a_graph_where_in_place_fails():
    model = Literal()
    small = halved(model, images()).apply(as_graph="auto")
    assert isinstance(small, torch.fx.GraphModule)
    model = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 3))
    assert halved(model, torch.randn(2, 6)).apply(as_graph="auto") is model
    with pytest.raises(ValueError, match='as_graph="auto" chooses by the proof, got verify=False'):
        halved(Literal(), images()).apply(as_graph="auto", verify=False)
    with pytest.raises(ValueError, match="as_graph is True, False or .auto., got 'maybe'"):
        halved(Literal(), images()).apply(as_graph="maybe")


class Branches(nn.Module):
    """An `if` and a length that hang on the data, and one on a constant."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x):
        y = self.a(x)
        if torch.tensor([1.0, 2.0]).sum() > 2 and x.sum() > 0:
            y = self.b(y).relu()
        return self.out(y[: int((x[:, 0] < 1e9).sum())])


def test_what_the_data_decide_is_fixed_and_said():
    model = Branches()
    line = Branches.forward.__code__.co_firstlineno
    removal = halved(model, torch.ones(2, 8))
    with pytest.warns(UserWarning, match="found in the sample's data is fixed") as said:
        removal.apply(as_graph=True)
    [warning] = said
    assert f"test_graph_module.py:{line + 2}, " in str(warning.message)
    assert f"test_graph_module.py:{line + 4} found" in str(warning.message)
    assert str(warning.message).count("local_scalar") == 2
