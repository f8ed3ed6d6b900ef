import pytest
import torch
from torch import nn

from sparsetrain import masks, optim
from sparsetrain.methods import DRIVE
from sparsetrain.ops import topk_mask_reference

X, Y = torch.randn(32, 8), torch.arange(32) % 3
cross_entropy = nn.functional.cross_entropy


def network():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(8, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 3))


def balanced():
    """Weights of one size in both layers, so that no score empties one."""
    model = network()
    with torch.no_grad():
        model[3].weight.mul_(2.2)
    return model


def run(method, steps, model=None, optimizer=None, start=True):
    """Train; before each step's update, look at what the method saw and did."""
    model = model or network()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3)
    if start:
        method.start(model, optimizer)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        grads = {n: p.grad.clone() for n, p in model.named_parameters()}
        before = dict(method.masks)
        method.after_backward()
        seen.append((weights, grads, before, dict(method.masks)))
        optimizer.step()
        method.after_step()
    return model, optimizer, seen


def count(found):
    return sum(int(m.sum()) for m in found.values())


def test_keeps_exactly_the_schedule():
    method = DRIVE(0.9, dense_steps=3, rounds=4, interval=2)
    _, _, seen = run(method, 12)
    total = 8 * 40 + 40 * 3
    kept = [count(after) for *_, after in seen]
    due = [round(total * 0.1 ** (r / 4)) for r in range(1, 5)]
    assert kept == [total] * 3 + [due[0]] * 2 + [due[1]] * 2 + [due[2]] * 2 + [due[3]] * 3
    assert method.last_round == 10


def test_pruned_stays_pruned_with_its_state():
    method = DRIVE(0.8, dense_steps=2, rounds=3, interval=2)
    model, optimizer, seen = run(method, 12)
    for _, _, before, after in seen:
        assert not any((after[n] & ~before[n]).any() for n in after)
    for name, mask in method.masks.items():
        parameter = model.get_parameter(name)
        momentum = optimizer.state[parameter]["momentum_buffer"]
        assert (parameter[~mask] == 0).all()
        assert (momentum[~mask] == 0).all()
        assert (parameter[mask] != 0).all()


@pytest.mark.parametrize(("name", "options"), [("SGD", {}), ("AdamW", {"eps": 1e-2})])
def test_our_optimizers_keep_the_masks_themselves(name, options):
    # No batch norm: behind a row that is pruned whole it divides rounding by sqrt(eps), and Adam
    # steps by that noise, so two right optimizers would differ from machine to machine.
    found = []
    for library in (optim, torch.optim):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3))
        method = DRIVE(0.8, dense_steps=2, rounds=3, interval=2)
        optimizer = getattr(library, name)(model.parameters(), 0.05, weight_decay=1e-3, **options)
        run(method, 12, model, optimizer)
        found.append((list(model.parameters()), method.masks))
        if library is optim:
            assert optimizer.mask_of(model[0].weight) is method.masks["0.weight"]
            assert (model[0].weight[~method.masks["0.weight"]] == 0).all()
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("stop", range(1, 12))
def test_resuming_with_our_optimizer_is_exact(stop):
    options = {"sparsity": 0.8, "dense_steps": 2, "rounds": 3, "interval": 3}
    each = []
    for at in (None, stop):
        model, method = network(), DRIVE(**options)
        optimizer = optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3)
        run(method, at or 12, model, optimizer)
        if at is not None:
            state = optimizer.state_dict()
            optimizer = optim.SGD(model.parameters(), 0.05)
            optimizer.load_state_dict(state)
            second = DRIVE(**options)
            second.resume(model, optimizer, method.state_dict())
            run(second, 12 - at, model, optimizer, start=False)
        each.append(model)
    for a, b in zip(each[0].parameters(), each[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_score_is_the_normalised_sum_of_three_terms():
    method = DRIVE(0.7, dense_steps=1, rounds=2, interval=1, alpha=1.0, beta=2.0, gamma=0.5)
    _, _, seen = run(method, 3)
    names = ["0.weight", "3.weight"]
    for (weights, grads, before, after), round_ in ((seen[1], 1), (seen[2], 2)):
        w = [weights[n] for n in names]
        g = [grads[n] * before[n] for n in names]
        sums = [
            sum(float(t.sum(dtype=torch.float64)) for t in term)
            for term in (
                [x.abs() for x in w],
                [(x * y).abs() for x, y in zip(w, g, strict=True)],
                [y.abs() for y in g],
            )
        ]
        wanted = topk_mask_reference(
            w,
            g,
            k=round(440 * 0.3 ** (round_ / 2)),
            score="blend",
            alpha=1.0 / sums[0],
            beta=2.0 / sums[1],
            gamma=0.5 / sums[2],
            within=[before[n] for n in names],
        )
        assert all(torch.equal(after[n], m) for n, m in zip(names, wanted, strict=True))


def test_plain_sum_scores_magnitude_alone():
    method = DRIVE(0.5, 0, rounds=1, normalise="none", beta=0.0, gamma=0.0)
    _, _, seen = run(method, 1)
    weights, _, _, after = seen[0]
    w = [weights[n] for n in after]
    wanted = topk_mask_reference(w, k=220)
    assert all(torch.equal(a, b) for a, b in zip(after.values(), wanted, strict=True))


def test_gradients_are_summed_over_batches():
    method = DRIVE(
        0.5, dense_steps=4, rounds=1, interval=5, batches=3, normalise="none", alpha=0.0, beta=0.0
    )
    _, _, seen = run(method, 5)
    names = list(method.masks)
    total = [sum(grads[n] for _, grads, *_ in seen[2:5]) for n in names]
    wanted = topk_mask_reference(total, k=220)
    assert all(torch.equal(method.masks[n], m) for n, m in zip(names, wanted, strict=True))


@pytest.mark.parametrize("normalise", ["none", "sum", "max", "std"])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_every_option_keeps_exactly_k(normalise, allocation):
    options = {"normalise": normalise, "allocation": allocation}
    method = DRIVE(0.75, 1, rounds=3, interval=1, alpha=9.0, **options)
    run(method, 5, balanced())
    assert count(method.masks) == 110
    if allocation == "uniform":
        assert [int(m.sum()) for m in method.masks.values()] == [80, 30]


def test_rewind_init():
    start = {n: p.detach().clone() for n, p in network().named_parameters()}
    method = DRIVE(0.5, 3, rounds=2, interval=2, after="rewind_init")
    model, optimizer, _ = run(method, 5)
    model_after = dict(model.named_parameters())
    optimizer.zero_grad()
    method = DRIVE(0.5, 3, rounds=2, interval=2, after="rewind_init")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.0, 0.9)  # steps that move nothing
    run(method, 6, model, optimizer)
    for name, mask in method.masks.items():
        assert torch.equal(model.get_parameter(name), start[name] * mask)
    assert not torch.equal(model_after["0.weight"], start["0.weight"])


def test_rewind_dense_returns_to_the_end_of_the_dense_phase():
    method = DRIVE(0.5, 3, rounds=2, interval=2, after="rewind_dense")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    _, _, seen = run(method, 5, model, optimizer)
    at_first_round = seen[3][0]  # weights before the step that prunes first
    method.start(model, optimizer)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    method.start(model, optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        method.after_backward()
        if method.state_dict()["step"] == method.last_round:
            break
        optimizer.step()
        method.after_step()
    for name, mask in method.masks.items():
        assert torch.equal(model.get_parameter(name), at_first_round[name] * mask)


def test_resuming_is_exact_at_every_step():
    options = {
        "sparsity": 0.8,
        "dense_steps": 2,
        "rounds": 3,
        "interval": 3,
        "batches": 2,
        "after": "rewind_dense",
    }
    whole, _, _ = run(DRIVE(**options), 12)
    for stop in range(1, 12):
        first = DRIVE(**options)
        model, optimizer, _ = run(first, stop)
        second = DRIVE(**options)
        second.resume(model, optimizer, first.state_dict())
        run(second, 12 - stop, model, optimizer, start=False)
        for a, b in zip(whole.parameters(), model.parameters(), strict=True):
            assert torch.equal(a, b), f"stopped after step {stop}"


def test_excluded_layers_stay_dense():
    method = DRIVE(0.9, 0, rounds=1, exclude=["3"])
    run(method, 2)
    assert list(method.masks) == ["0.weight"]
    assert count(method.masks) == 32


def test_an_emptied_layer_is_an_error():
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(1e-6)
    method = DRIVE(0.9, 0, rounds=1, beta=0.0, gamma=0.0)
    with pytest.raises(ValueError, match="step 1 would keep no weight of 0.weight"):
        run(method, 1, model)


def test_a_frozen_layer_is_an_error():
    model = network()
    model[0].weight.requires_grad_(False)
    method = DRIVE(0.9, 0)
    with pytest.raises(ValueError, match="0.weight has no gradient; exclude it or unfreeze it"):
        method.start(model, torch.optim.SGD(model.parameters(), 0.1))


def test_ending_too_early_warns():
    method = DRIVE(0.9, dense_steps=3, rounds=4, interval=2)
    run(method, 6)
    with pytest.warns(UserWarning, match="before the last round at step 10; 68.* are pruned"):
        method.finish()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"sparsity": -0.1}, "got -0.1"),
        ({"rounds": 0}, "rounds, interval, batches >= 1, got 0, 0, 10, 1"),
        ({"batches": 11}, "batches=11 exceeds interval=10"),
        ({"after": "rewind"}, "after is one of continue, rewind_init, rewind_dense, got 'rewind'"),
        ({"allocation": "net"}, "allocation is one of global, uniform, .*, got 'net'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DRIVE(**{"sparsity": 0.9, "dense_steps": 0, **options})


def test_sparsity_counts_masked_weights():
    assert masks.sparsity({"a": torch.tensor([True, False, False, False])}) == 0.75
    assert masks.sparsity({}) == 0.0


def test_unknown_and_missing_layers():
    with pytest.raises(ValueError, match="no layer to exclude is called '5'"):
        masks.prunable(network(), ["5"])
    with pytest.raises(ValueError, match="ReLU has no convolution or linear weight"):
        masks.prunable(nn.ReLU())
