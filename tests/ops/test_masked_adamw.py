import itertools

import pytest
import torch

from sparsetrain.ops import masked_adamw, masked_adamw_reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [(0,), (1,), (7,), (63,), (65,), (70_000,), (3, 5, 2, 2)]
OPTIONS = [
    {"weight_decay": decay, "decoupled": decoupled, "maximize": maximize}
    for decay, decoupled, maximize in itertools.product((0.0, 0.1), (False, True), (False, True))
]


def sample(dtype, device, shapes=SIZES, amsgrad=True):
    """Weights, gradients, moments and steps, and masks; the second weight has no mask."""
    each = [[torch.randn(s, device=device).to(dtype) for s in shapes] for _ in range(5)]
    w, g, m, v, u = each
    v, u = [t.abs() for t in v], [t.abs() for t in u] if amsgrad else []
    steps = [torch.tensor(float(i), device=device) for i in range(len(shapes))]
    masks = [torch.rand(s, device=device) < 0.5 for s in shapes]
    return [w, g, m, v, u, steps], [masks[0], None, *masks[2:]]


def copied(lists, dtype=None):
    """The same, steps aside in another dtype."""
    return [[t.clone().to(dtype or t.dtype) for t in ts] for ts in lists[:-1]] + [
        [t.clone() for t in lists[-1]]
    ]


def error(mine, truth):
    """The largest error over all tensors, relative to the largest value of each."""
    pairs = [(a, b) for a, b in zip(mine, truth, strict=True) if a.numel()]
    errors = (
        float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs
    )
    return max(errors, default=0.0)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("masked_state", ["zero", "keep"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_near_the_truth_as_the_reference(dtype, masked_state, amsgrad, device):
    start, masks = sample(dtype, device, amsgrad=amsgrad)
    for options in OPTIONS:
        options = options | {"lr": 0.1, "masked_state": masked_state, "eps": 1e-4}
        mine, plain, truth = copied(start), copied(start), copied(start, torch.float64)
        masked_adamw(*mine, masks, **options)
        masked_adamw_reference(*plain, masks, **options)
        masked_adamw_reference(*truth, masks, **options)
        for a, b, c in zip(mine, plain, truth, strict=True):
            assert error(a, c) <= 2 * error(b, c) + torch.finfo(dtype).eps, options
        assert all((t[~m] == 0).all() for t, m in zip(mine[0], masks, strict=True) if m is not None)
        assert [int(t) for t in mine[-1]] == list(range(1, len(SIZES) + 1))


def test_worked_by_hand(device):
    w, g, m, v = (torch.tensor([x, x], device=device) for x in (1.0, 4.0, 0.0, 0.0))
    step, mask = torch.zeros((), device=device), torch.tensor([True, False], device=device)
    how = {"lr": 0.5, "betas": (0.5, 0.5), "eps": 0.0, "weight_decay": 0.5}
    masked_adamw([w], [g], [m], [v], [], [step], [mask], **how)
    assert m.tolist() == [2.0, 0.0]
    assert v.tolist() == [8.0, 0.0]
    assert step.item() == 1
    torch.testing.assert_close(w, torch.tensor([0.25, 0.0], device=device))  # 0.75 - 0.5 * 4 / 4


def test_pruned_is_zero_even_from_nan(device):
    w, g, m, v, u = (torch.full((70,), torch.nan, device=device) for _ in range(5))
    mask = torch.zeros_like(w, dtype=torch.bool)
    masked_adamw([w], [g], [m], [v], [u], [torch.zeros((), device=device)], [mask], lr=0.1)
    for t in (w, m, v, u):
        assert torch.equal(t, torch.zeros_like(t))


@pytest.mark.parametrize("scaled", [False, True])
def test_any_layout(scaled, device):
    scale = {"grad_scale": torch.tensor(4.0, device=device)} if scaled else {}
    (w, g, m, v, u, steps), masks = sample(torch.float32, device, [(6, 4, 3, 3)] * 5)
    last = torch.channels_last
    w[0], masks[0] = w[0].to(memory_format=last), masks[0].to(memory_format=last)
    g[1], m[2], v[3] = (t.to(memory_format=last) for t in (g[1], m[2], v[3]))
    w[4] = torch.randn(6, 4, 3, 6, device=device)[..., ::2]
    mine, wanted = (copied([w, g, m, v, u, steps]) for _ in range(2))
    mine[0][4] = torch.randn(6, 4, 3, 6, device=device)[..., ::2].copy_(w[4])
    for step, each in ((masked_adamw, mine), (masked_adamw_reference, wanted)):
        step(*each, masks, lr=0.1, **scale)
    torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_agree(dtype):
    before, results = torch.get_num_threads(), []
    start, masks = sample(dtype, "cpu", [(100_003,), (5,), (70_001,), (30_000, 3)])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        mine = copied(start)
        masked_adamw(*mine, masks, lr=0.1)
        results.append([t for ts in mine for t in ts])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_found_inf_leaves_everything(device):
    start, masks = sample(torch.float32, device)
    mine = copied(start)
    amp = {name: torch.tensor(2.0, device=device) for name in ("grad_scale", "found_inf")}
    masked_adamw(*mine, masks, lr=0.1, **amp)
    for a, b in zip(mine, start, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


W, T = torch.ones(3), torch.zeros(())
BAD = [
    ({"exp_avgs": []}, ValueError, "got 1 weights and 0 exp_avgs"),
    ({"max_exp_avg_sqs": [W, W]}, ValueError, "got 1 weights and 2 max_exp_avg_sqs"),
    ({"steps": []}, ValueError, "got 1 weights and 0 steps"),
    ({"steps": [W]}, ValueError, r"steps 0 must be one fp32 number, got torch.float32 of shape \("),
    ({"steps": [T.double()]}, ValueError, "steps 0 must be one fp32 number, got torch.float64"),
    ({"exp_avg_sqs": [W[:2]]}, ValueError, r"exp_avg_sqs 0 is \(2,\) on cpu, its weight is \(3,\)"),
    ({"masks": [W]}, TypeError, "masks 0 must be torch.bool, got torch.float32"),
    ({"masked_state": "x"}, ValueError, "masked_state is zero or keep, got 'x'"),
]


@pytest.mark.parametrize(("changed", "kind", "message"), BAD)
def test_bad_input(changed, kind, message):
    good = {"weights": [W], "grads": [W], "exp_avgs": [W], "exp_avg_sqs": [W]}
    good |= {"max_exp_avg_sqs": [], "steps": [T], "masks": [None], "lr": 0.1}
    with pytest.raises(kind, match=f"masked_adamw: {message}"):
        masked_adamw(**(good | changed))


def test_registration(device):
    start, masks = sample(torch.float32, device, [(3,), (2, 2)])
    options = (0.1, 0.9, 0.99, 1e-8, 0.1, True, False, False, None, None)
    torch.library.opcheck(torch.ops.sparsetrain.masked_adamw.default, (*start, masks, *options))
