from itertools import pairwise
from math import floor

import pytest
import torch
from torch import nn

from sparsetrain.methods import FGGP
from sparsetrain.selection.patterns import Vector

LR = 0.01
PRUNABLE = ["2.weight", "5.weight"]  # without the first convolution


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


def gradient(name, parameter, step):
    """The same whatever the weights are."""
    stream = torch.Generator().manual_seed(1000 * step + sum(map(ord, name)))
    return torch.randn(parameter.shape, generator=stream)


def run(method, steps, model=None):
    """The masks after each step."""
    model = model or network()
    optimizer = torch.optim.SGD(model.parameters(), LR)
    method.start(model, optimizer)
    found = [dict(method.masks)]
    for step in range(1, steps + 1):
        for name, parameter in model.named_parameters():
            parameter.grad = gradient(name, parameter, step)
        method.after_backward()
        optimizer.step()
        method.after_step()
        found.append(dict(method.masks))
    return found


def plain(start, total, interval, d_i, d_f, prunable, counted, r=0.5):
    """FGGP as its code has it: dense weights aside, masked in the forward pass."""
    model = network()
    dense = {n: p.detach().clone() for n, p in model.named_parameters()}
    masks = {n: start[n].flatten().tolist() for n in prunable}
    T_e, found = int(0.8 * total), []
    N = sum(dense[n].numel() for n in counted)
    for t in range(1, total + 1):
        grads = {n: gradient(n, p, t) for n, p in dense.items()}
        if t <= T_e and t % interval == 0:
            d = d_f + (d_i - d_f) * (1 - t / T_e) ** 3
            zeros = sum(m.count(False) for m in masks.values())
            P, R = floor(N * (1 - d) - zeros), N - zeros
            K = int(r * R)
            g = {n: grads[n].flatten().abs().tolist() for n in prunable}
            w = {n: dense[n].flatten().abs().tolist() for n in prunable}
            active = [(n, i) for n in prunable for i, live in enumerate(masks[n]) if live]
            candidates = sorted(active, key=lambda e: g[e[0]][e[1]])[:K]
            put_back = sorted(candidates, key=lambda e: w[e[0]][e[1]], reverse=True)[: K - P]
            for n, i in set(candidates) - set(put_back):
                masks[n][i] = False
        for n, p in dense.items():
            p.add_(grads[n], alpha=-LR)
        found.append({n: torch.tensor(masks[n]).view(dense[n].shape) for n in prunable})
    return found


@pytest.mark.parametrize("initial_sparsity", [0.0, 0.5])
@pytest.mark.parametrize("published", [True, False])
def test_50_updates_equal_a_plain_implementation_of_the_paper(published, initial_sparsity):
    total, interval = 250, 4
    options = {"interval": interval, "initial_sparsity": initial_sparsity}
    if published:
        method = FGGP.as_published(0.6, total, "0", **options)
        counted, prunable = [n for n, _ in network().named_parameters()], PRUNABLE
    else:
        method = FGGP(0.75, total, **options)
        prunable = counted = ["0.weight", *PRUNABLE]
    start, *found = run(method, total)
    d_i, d_f = 1 - initial_sparsity, 1 - method.sparsity
    wanted = plain(start, total, interval, d_i, d_f, prunable, counted)
    changes = 0
    for before, after, right in zip([start, *found], found, wanted, strict=False):
        assert list(after) == prunable
        assert all(torch.equal(after[n], right[n]) for n in prunable)
        changes += any(not torch.equal(before[n], after[n]) for n in prunable)
    assert len(found) == len(wanted)
    assert changes >= 35  # of 50: the last of a cubic prune less than one weight each
    assert start[PRUNABLE[0]].all() == (initial_sparsity == 0)


def test_one_update_by_hand():
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 5.0, 2.0, 8.0], [3.0, 7.0, 4.0, 6.0]]))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    method = FGGP(0.25, 5, interval=4)
    method.start(model, optimizer)
    for _ in range(4):
        grad = torch.tensor([[9.0, 1.0, 8.0, 2.0], [7.0, 3.0, 4.0, 6.0]])
        model[0].weight.grad = grad
        method.after_backward()
        method.after_step()
    # Candidates are the 4 smallest gradients, 1 2 3 4; their weights 5 8 7 4: 4 and 5 go.
    wanted = torch.tensor([[True, False, True, True], [True, True, False, True]])
    assert torch.equal(method.masks["0.weight"], wanted)


def small(masks):
    return sum(int((~m).sum()) for m in masks.values())


@pytest.mark.parametrize(
    "options",
    [
        {"first": "magnitude", "then": "gradient"},
        {"first": "magnitude", "then": "gradient", "rate": "annealed"},
        {"rate": "annealed"},
        {"then": "random"},
        {"first": "magnitude", "then": None},
        {"first": "sensitivity", "then": None},
        {"first": "rank sum", "then": None},
        {"first": "rank product", "then": None},
        {"allocation": "uniform"},
        {"allocation": "erk", "initial_sparsity": 0.5},
        {"pattern": Vector(4)},
        {"pattern": Vector(4), "first": "rank sum", "then": "random", "initial_sparsity": 0.5},
        {"floor": 0.2},
        {"exclude": ["0"], "count": "weights"},
    ],
)
def test_every_option_is_exact_and_prunes_for_good(options):
    found = run(FGGP(0.7, 50, interval=4, **options), 50)
    counted = 1200 if options.get("count") == "weights" or "exclude" not in options else 984
    by_group = "pattern" in options
    assert abs(small(found[-1]) - round(0.7 * counted)) <= (4 if by_group else 0)
    for before, after in pairwise(found):
        assert not any((after[n] & ~before[n]).any() for n in after)
    if "floor" in options:
        assert all(m.sum() >= 0.2 * m.numel() for m in found[-1].values())


def test_ranks_are_ranks_and_not_indices():
    model = nn.Sequential(nn.Linear(5, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[5.0, 1.0, 3.0, 4.0, 2.0]]))
    method = FGGP(0.4, 5, 4, first="rank sum", then=None)
    method.start(model, torch.optim.SGD(model.parameters(), 0.0))
    for _ in range(4):
        model[0].weight.grad = torch.tensor([[30.0, 20.0, 10.0, 50.0, 40.0]])
        method.after_backward()
        method.after_step()
    # Ranks of w 5 1 3 4 2 and of g 3 2 1 5 4: sums 8 3 4 9 6, so the second and third go.
    assert method.masks["0.weight"].tolist() == [[True, False, False, True, True]]


def test_bernoulli_starts_are_random_counts_about_the_exact_ones():
    counts = set()
    for seed in range(8):
        for initial in ("exact", "bernoulli"):
            method = FGGP(0.9, 50, 4, initial_sparsity=0.5, initial=initial, seed=seed)
            method.start(model := network(), torch.optim.SGD(model.parameters(), LR))
            live = sum(int(m.sum()) for m in method.masks.values())
            assert live == 600 if initial == "exact" else abs(live - 600) < 100
            counts.add(live)
    assert len(counts) > 4


def test_too_few_candidates_are_known_before_training():
    method = FGGP(0.98, 50, interval=20, select_ratio=0.2)
    with pytest.raises(ValueError, match="FGGP: step 20 must prune .* of 240 candidates; raise"):
        method.start(model := network(), torch.optim.SGD(model.parameters(), LR))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 2000}, "first update is at step 2000, after the schedule's end at step 80"),
        ({"interval": 0}, "interval must be 1 step or more, got 0"),
        ({"initial_sparsity": 0.95}, r"initial_sparsity must be in \[0, sparsity=0.9\], got 0.95"),
        ({"first": "grad"}, "first is one of magnitude, gradient, .*, got 'grad'"),
        ({"select_ratio": 0.0}, r"need select_ratio and end in \(0, 1\], got 0.0, 0.8"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FGGP(0.9, 100, **{"interval": 4, **options})
