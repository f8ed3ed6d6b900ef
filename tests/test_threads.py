"""Several threads at once: each finds what one alone does."""

import copy
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain.nn import SparseConv2d, SparseLinear, product
from sparsetrain.nn.packed import Pattern
from sparsetrain.nn.plan import Geometry
from sparsetrain.ops import Entries, spmm
from sparsetrain.shrink.record import record

THREADS = 8


def together(work):
    """What work(0) to work(THREADS - 1) return, begun at the same moment."""
    start, patience = threading.Barrier(THREADS), sys.getswitchinterval()

    def one(i):
        start.wait()
        return work(i)

    sys.setswitchinterval(1e-5)  # threads meet more often
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(one, range(THREADS)))
    finally:
        sys.setswitchinterval(patience)


def layer(kind):
    torch.manual_seed(0)
    dense = nn.Linear(24, 16) if kind is SparseLinear else nn.Conv2d(4, 8, 3, padding=1)
    return kind.from_dense(dense, torch.rand_like(dense.weight) < 0.3)


def batches(kind, count):
    """Inputs of more shapes than a layer keeps kernels for."""
    sizes = [(i + 1, 24) if kind is SparseLinear else (2, 4, 3 + i, 5) for i in range(count)]
    return [torch.randn(size) for size in sizes]


@pytest.mark.parametrize("kind", [SparseLinear, SparseConv2d])
def test_one_sparse_layer_in_all_threads(kind, monkeypatch):
    monkeypatch.setattr(product, "SHAPES", 1)  # so that they push each other's kernels out
    shared, inputs = layer(kind).eval(), batches(kind, 12)
    with torch.no_grad():
        wanted = [shared(x) for x in inputs]

    @torch.no_grad()
    def work(i):
        order = range(i, i + 24)
        return all(torch.equal(shared(inputs[j % 12]), wanted[j % 12]) for j in order)

    assert together(work) == [True] * THREADS


class Shape(tuple):
    """Of an input; whenever a cache asks for it, another thread comes first."""

    __slots__ = ()

    def __hash__(self):
        time.sleep(0)
        return super().__hash__()


def test_kernels_of_one_weight_in_all_threads(monkeypatch):
    monkeypatch.setattr(product, "SHAPES", 1)
    pattern = Pattern.of(torch.ones(2, 3, dtype=torch.bool))

    def work(i):
        shapes = [Shape((3, 1, 1, 1 << (i + j) % 2)) for j in range(50)]
        found = [product.kernels_of(pattern, Geometry(), shape, (0, 0)) for shape in shapes]
        return [kernels.plan.x_shape for kernels in found] == shapes

    assert together(work) == [True] * THREADS


@pytest.mark.parametrize("kind", [SparseLinear, SparseConv2d])
def test_one_sparse_layer_is_differentiated_in_all_threads(kind):
    shared, inputs = layer(kind), batches(kind, 9)

    def gradients(x):
        return torch.autograd.grad(shared(x).square().sum(), list(shared.parameters()))

    wanted = [gradients(x) for x in inputs]

    def work(i):
        found = [(j % 9, gradients(inputs[j % 9])) for j in range(i, i + 9)]
        return all(map(torch.equal, found_j, wanted[j]) for j, found_j in found)

    assert together(work) == [True] * THREADS


def network(width):
    torch.manual_seed(width)
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Conv2d(width, 2 * width, 3), nn.ReLU(), nn.Conv2d(2 * width, 4, 1)),
    )


def test_models_are_recorded_side_by_side():
    x = torch.ones(1, 3, 7, 7)
    models = [network(4 + i) for i in range(THREADS)]
    wanted = [[str(step) for step in record(model, x).steps] for model in models]
    found = together(lambda i: [str(step) for step in record(models[i], x).steps])
    assert found == wanted


def test_a_model_that_runs_elsewhere_is_not_recorded():
    x, other, stop = torch.ones(1, 3, 7, 7), network(5), threading.Event()
    wanted = [str(step) for step in record(network(4), x).steps]

    def run():
        while not stop.is_set():
            other(x)

    busy = threading.Thread(target=run)
    busy.start()
    try:
        found = [[str(step) for step in record(network(4), x).steps] for _ in range(5)]
    finally:
        stop.set()
        busy.join()
    assert found == [wanted] * 5


def test_plans_are_made_and_applied_side_by_side():
    x = torch.ones(1, 3, 7, 7)

    models = [network(4 + i) for i in range(THREADS)]  # here: threads share torch's generator

    def shrunk(i):
        model = copy.deepcopy(models[i])
        plan = st.plan(model, x, st.scores.GroupNorm(), channels=0.5, round_to=1)
        plan.apply()
        return plan.widths, model.eval()(x)

    wanted = [shrunk(i) for i in range(THREADS)]
    for (widths, y), (mine, z) in zip(wanted, together(shrunk), strict=True):
        assert widths == mine
        assert torch.equal(y, z)


def test_entries_come_and_go_in_all_threads():
    def work(i):
        offset = torch.full((3,), i, dtype=torch.int32)
        start = torch.tensor([0, 1, 2, 3], dtype=torch.int32)
        x = torch.arange(float(THREADS)).view(1, THREADS, 1, 1, 1)
        for _ in range(20):
            entries = Entries(start, offset, 1, 1, 3, (1, 1), (THREADS, 1, 1, 1))
            if spmm(x, torch.ones(3, 1), entries).flatten().tolist() != [i] * 3:
                return False
        return True

    assert together(work) == [True] * THREADS
