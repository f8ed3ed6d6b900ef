"""What only a GPU can show: no waiting for the device, CUDA graphs, the CPU's masks bit for bit."""

import pytest
import torch

from sparsetrain.ops import TopkMask, gather_channels, masked_adamw, masked_sgd, topk_mask
from sparsetrain.ops.dtypes import DTYPES
from sparsetrain.ops.topk_checks import SCORES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def no_waiting():
    """An error from anything that makes the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def scores(*sizes):
    """Weights and gradients of all dtypes, with ties, on the GPU."""
    pairs = [
        torch.randn(2, n, device="cuda").mul(4).round().div(3).exp().to(DTYPES[i % 4])
        for i, n in enumerate(sizes)
    ]
    return [p[0] for p in pairs], [p[1] for p in pairs]


@pytest.mark.parametrize("sizes", [(7, 0, 4_000), (500_000, 1, 700_001, 300_000)], ids=str)
@pytest.mark.parametrize("score", SCORES)
def test_same_masks_as_on_the_cpu(score, sizes):
    weights, grads = scores(*sizes)
    for k in (1, sum(sizes) // 10, sum(sizes) // 2, sum(sizes) - 1):
        on_gpu = topk_mask(weights, grads, k=k, score=score)
        on_cpu = topk_mask([w.cpu() for w in weights], [g.cpu() for g in grads], k=k, score=score)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(on_gpu, on_cpu, strict=True))


@pytest.mark.parametrize("numel", [3_000, 3_000_000])
def test_same_masks_without_ties(numel):
    weight = torch.randn(numel, device="cuda")
    for k in (1, numel // 10, numel // 2):
        (on_gpu,), (on_cpu,) = topk_mask([weight], k=k), topk_mask([weight.cpu()], k=k)
        assert torch.equal(on_gpu.cpu(), on_cpu)


def test_topk_mask_does_not_wait(no_waiting):
    weights, grads = scores(3_000, 1_000_000)
    assert len(topk_mask(weights, grads, k=9_999, score="snip", check=False)) == 2


def test_gather_channels_does_not_wait(no_waiting):
    x, rows = torch.ones(8, 4, device="cuda"), torch.arange(3, device="cuda")
    assert gather_channels([x], rows, check=False)[0].shape == (3, 4)


def test_gather_channels_in_a_graph():
    shapes = [(64, 32, 3, 3), (64,), (10, 64), (33, 7)] * 50  # more than one upload of the table
    each = [torch.randn(shape, device="cuda") for shape in shapes]
    rows = [torch.randperm(len(t), device="cuda")[: len(t) // 2] for t in each]
    graph = torch.cuda.CUDAGraph()
    gather_channels(each, rows, check=False)
    with torch.cuda.graph(graph):
        kept = gather_channels(each, rows, check=False)
    for tensor, index in zip(each, rows, strict=True):
        tensor.copy_(torch.randn_like(tensor))
        index.copy_(index.flip(0))
    graph.replay()
    assert all(map(torch.equal, kept, [t[row] for t, row in zip(each, rows, strict=True)]))


def test_topk_mask_in_a_graph():
    weights, grads = scores(3_000, 1_000_000)
    topk_mask(weights, grads, k=9_999, score="snip", check=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        masks = topk_mask(weights, grads, k=9_999, score="snip", check=False)
    for tensor in (*weights, *grads):
        tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    assert all(map(torch.equal, masks, topk_mask(weights, grads, k=9_999, score="snip")))


def test_a_plan_in_a_graph():
    weights, grads = scores(3_000, 1_000_000)
    plan = TopkMask(weights, score="snip", check=False)
    plan(grads, 9_999)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        masks = plan(grads, 9_999)
    for tensor in (*weights, *grads):
        tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    assert all(map(torch.equal, masks, topk_mask(weights, grads, k=9_999, score="snip")))


def test_masked_sgd_does_not_wait():
    weights, grads, masks = parameters(2)
    torch.cuda.set_sync_debug_mode("error")
    masked_sgd(weights, grads, [], masks, lr=0.1)
    torch.cuda.set_sync_debug_mode("default")
    assert not weights[1][~masks[1]].any()


def parameters(numbers):
    made = [[torch.rand(n, device="cuda") for n in (1, 9_000, 65)] for _ in range(numbers)]
    return *made, [torch.rand_like(w) < 0.5 for w in made[0]]


def test_masked_sgd_in_a_graph():
    weights, grads, buffers, masks = parameters(3)
    wanted = [t.clone() for t in weights], [t.clone() for t in buffers]
    how = {"lr": 0.1, "momentum": 0.9}
    for _ in range(3):
        masked_sgd(wanted[0], grads, wanted[1], masks, **how)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        masked_sgd(weights, grads, buffers, masks, **how)
    for _ in range(3):
        graph.replay()
    assert all(map(torch.equal, weights, wanted[0]))


def test_masked_adamw_in_a_graph():
    weights, grads, means, squares, masks = parameters(4)
    steps = [torch.zeros((), device="cuda") for _ in weights]
    w, m, v, t = [[t.clone() for t in each] for each in (weights, means, squares, steps)]
    for _ in range(3):
        masked_adamw(w, grads, m, v, [], t, masks, lr=0.1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        masked_adamw(weights, grads, means, squares, [], steps, masks, lr=0.1)
    for _ in range(3):
        graph.replay()
    assert all(map(torch.equal, weights, w))
