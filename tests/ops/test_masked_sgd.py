import itertools

import pytest
import torch

from sparsetrain.ops import masked_sgd, masked_sgd_reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [(0,), (1,), (7,), (63,), (65,), (70_000,), (3, 5, 2, 2)]
OPTIONS = [
    {"momentum": momentum, "nesterov": nesterov, "dampening": dampening}
    | {"weight_decay": decay, "maximize": maximize, "first": first}
    for momentum, nesterov, dampening, decay, maximize, first in itertools.product(
        (0.0, 0.9), (False, True), (0.0, 0.3), (0.0, 0.1), (False, True), (False, True)
    )
    if not (nesterov and (momentum == 0 or dampening)) and not (momentum == 0 and first)
]


def sample(dtype, device, shapes=SIZES):
    """Weights, gradients, momentum and masks; the second weight has no mask."""
    each = [[torch.randn(s, device=device).to(dtype) for s in shapes] for _ in range(3)]
    masks = [torch.rand(s, device=device) < 0.5 for s in shapes]
    return *each, [masks[0], None, *masks[2:]]


def copied(tensors, dtype=None):
    return [t if t is None else t.clone().to(dtype or t.dtype) for t in tensors]


def error(mine, truth):
    """The largest error over all tensors, relative to the largest value of each."""
    pairs = [(a, b) for a, b in zip(mine, truth, strict=True) if a.numel()]
    return max(
        float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs
    )


@pytest.mark.parametrize("masked_state", ["zero", "keep"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_near_the_truth_as_the_reference(dtype, masked_state, device):
    w, g, v, masks = sample(dtype, device)
    for options in OPTIONS:
        options = options | {"lr": 0.1, "masked_state": masked_state}
        mine, plain = ((copied(w), copied(g), copied(v)) for _ in range(2))
        truth = [copied(t, torch.float64) for t in (w, g, v)]
        masked_sgd(*mine, masks, **options)
        masked_sgd_reference(*plain, masks, **options)
        masked_sgd_reference(*truth, masks, **options)
        for a, b, c in zip(mine, plain, truth, strict=True):
            assert error(a, c) <= 2 * error(b, c) + torch.finfo(dtype).eps, options
        assert all((t[~m] == 0).all() for t, m in zip(mine[0], masks, strict=True) if m is not None)


def test_worked_by_hand(device):
    w, g, v = (torch.tensor(x, device=device) for x in ([1.0, 2.0], [4.0, 4.0], [8.0, 8.0]))
    mask = torch.tensor([True, False], device=device)
    masked_sgd([w], [g], [v], [mask], lr=0.5, momentum=0.5, weight_decay=2.0)
    assert v.tolist() == [10.0, 0.0]  # 0.5 * 8 + (4 + 2 * 1)
    assert w.tolist() == [-4.0, 0.0]
    assert g.tolist() == [4.0, 4.0]


def test_pruned_is_zero_even_from_nan(device):
    w, g, v = (torch.full((70,), torch.nan, device=device) for _ in range(3))
    masked_sgd([w], [g], [v], [torch.zeros_like(w, dtype=torch.bool)], lr=0.1, momentum=0.9)
    assert torch.equal(w, torch.zeros_like(w))
    assert torch.equal(v, torch.zeros_like(v))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_number(dtype):
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    w, g = numbers.clone(), numbers[torch.randperm(len(numbers))]
    masked_sgd([w], [g], [], [None], lr=0.25)
    wanted = (numbers.float() - 0.25 * g.float()).to(dtype)
    torch.testing.assert_close(w, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("scaled", [False, True])
def test_any_layout(scaled, device):
    scale = {"grad_scale": torch.tensor(4.0, device=device)} if scaled else {}
    w, g, v, masks = sample(torch.float32, device, [(6, 4, 3, 3)] * 6)
    last = torch.channels_last
    masks[1] = masks[2]
    w[0], masks[0] = w[0].to(memory_format=last), masks[0].to(memory_format=last)
    g[1], v[2] = g[1].to(memory_format=last), v[2].to(memory_format=last)
    w[3] = torch.randn(6, 4, 3, 6, device=device)[..., ::2]
    w[4], g[5] = torch.randn(4, 6, 3, 3, device=device).transpose(0, 1), g[5].mT
    mine, wanted = ([[t.clone() for t in ts] for ts in (w, g, v)] for _ in range(2))
    mine[0][3] = torch.randn(6, 4, 3, 6, device=device)[..., ::2].copy_(w[3])
    for step, each in ((masked_sgd, mine), (masked_sgd_reference, wanted)):
        step(*each, masks, lr=0.1, momentum=0.9, **scale)
    torch.testing.assert_close(mine, wanted)


def test_an_expanded_gradient_is_only_read(device):
    w = torch.zeros(3, 5, device=device)
    masked_sgd([w], [torch.ones(1, device=device).expand(3, 5)], [], [None], lr=1.0)
    assert (w == -1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_agree(dtype):
    before, results = torch.get_num_threads(), []
    start = sample(dtype, "cpu", [(100_003,), (5,), (70_001,), (30_000, 3)])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        w, g, v = (copied(t) for t in start[:3])
        masked_sgd(w, g, v, start[3], lr=0.1, momentum=0.9, nesterov=True)
        results.append(w + v)
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_gradients_are_unscaled_in_place(device):
    w, g = torch.zeros(66, device=device), torch.full((66,), 6.0, device=device)
    masked_sgd([w], [g], [], [None], lr=1.0, grad_scale=torch.tensor(3.0, device=device))
    assert (g == 2).all()
    assert (w == -2).all()


def test_found_inf_leaves_everything(device):
    w, g, v, masks = sample(torch.float32, device)
    mine = [copied(t) for t in (w, g, v)]
    amp = {name: torch.tensor(2.0, device=device) for name in ("grad_scale", "found_inf")}
    masked_sgd(*mine, masks, lr=0.1, momentum=0.9, **amp)
    for a, b in zip(mine, (w, g, v), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_autograd_notices(device):
    w = torch.ones(3, device=device, requires_grad=True)
    loss = (w * w).sum()
    masked_sgd([w], [torch.ones_like(w)], [], [None], lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_tensors():
    masked_sgd([], [], [], [], lr=0.1)


W = torch.ones(3)
YES = torch.ones(3, dtype=torch.bool)
BAD = [
    ([W], [], [], [None], {}, ValueError, "got 1 weights and 0 grads"),
    ([W], [W], [], [], {}, ValueError, "got 1 weights and 0 masks"),
    ([W], [W], [], [None], {"momentum": 0.9}, ValueError, "got 1 weights and 0 buffers"),
    ([W], [W[:2]], [], [None], {}, ValueError, r"grads 0 is \(2,\) on cpu, its weight is \(3,\)"),
    ([W], [W.to("meta")], [], [None], {}, ValueError, r"grads 0 is \(3,\) on meta"),
    ([W], [W], [], [YES[:2]], {}, ValueError, r"masks 0 is \(2,\) on cpu"),
    ([W], [W], [], [W], {}, TypeError, "masks 0 must be torch.bool, got torch.float32"),
    ([W], [W.double()], [], [None], {}, TypeError, "grads 0 must be torch.float32, got torch.f"),
    ([YES], [YES], [], [None], {}, TypeError, "weight 0 must be fp32, fp64, bf16 or fp16, got"),
    ([W], [W.to_sparse()], [], [None], {}, TypeError, "grads 0 must be dense, got torch.sparse"),
    ([W], [W], [], [None], {"nesterov": True}, ValueError, "nesterov needs momentum above 0"),
    ([W], [W], [], [None], {"masked_state": "x"}, ValueError, "masked_state is zero or keep, got"),
    ([W], [W], [], [None], {"found_inf": W}, ValueError, "found_inf must be one fp32 number, got"),
]


@pytest.mark.parametrize(("w", "g", "v", "masks", "options", "kind", "message"), BAD)
def test_bad_input(w, g, v, masks, options, kind, message):
    with pytest.raises(kind, match=f"masked_sgd: {message}"):
        masked_sgd(w, g, v, masks, lr=0.1, **options)


def test_registration(device):
    w, g, v, masks = sample(torch.float32, device, [(3,), (2, 2)])
    options = (False, 0.1, 0.9, 0.0, 0.1, True, False, False, None, None)
    torch.library.opcheck(torch.ops.sparsetrain.masked_sgd.default, (w, g, v, masks, *options))
