import pytest
import torch

from sparsetrain.ops import TopkMask, bits_of, mask_of, topk_mask, topk_mask_reference
from sparsetrain.ops.topk_plan import PATHS

N = 100_000  # enough for a sample


def path(plan):
    """How the last selection went."""
    return PATHS[int(plan._warm[0, 4])]


def equal(plan, weights, grads, k, **how):
    wanted = topk_mask_reference(weights, grads, k=k, **how)
    return all(map(torch.equal, plan(grads, k), wanted))


def test_the_second_call_starts_from_the_first():
    weights = [torch.randn(N), torch.randn(30, 40)]
    plan = TopkMask(weights)
    paths = []
    for step in range(6):
        assert equal(plan, weights, None, N // 10 + 500 * step)
        paths.append(path(plan))
        weights[0].add_(1e-4 * torch.randn(N))
    assert paths[0] == "sample"
    assert set(paths[1:]) == {"last"}


@pytest.mark.parametrize("seed", range(8))
def test_what_does_not_change_is_never_sampled_again(seed):
    w = torch.randn(N, generator=torch.Generator().manual_seed(seed))
    plan = TopkMask([w])
    paths = []
    for _ in range(3):
        assert equal(plan, [w], None, N // 10)
        paths.append(path(plan))
    assert paths == ["sample", "last", "last"]


@pytest.mark.parametrize("run", [16, 300, 5000])
def test_scores_that_are_alike_beside_each_other(run):
    scales = torch.randn(N // run + 1).exp().repeat_interleave(run)[:N]
    w = scales * (1 + 0.01 * torch.rand(N))
    plan = TopkMask([w])
    for k in (N // 100, N // 10, N // 2):
        plan._warm.fill_(-1.0)
        assert equal(plan, [w], None, k)
        assert path(plan) == "sample"


@pytest.mark.parametrize("at", [0, 1])
def test_nan_of_any_bits_among_the_sample(at):
    w = torch.randn(N)
    w[at::2] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    with pytest.raises(ValueError, match=rf"tensor 0 has {N // 2} NaN entries"):
        TopkMask([w])(None, N // 10)


def test_a_jump_is_found_again_by_a_sample():
    weights = [torch.randn(N)]
    plan = TopkMask(weights)
    assert equal(plan, weights, None, N // 10)
    weights[0].mul_(3)
    assert equal(plan, weights, None, N // 10)
    assert path(plan) == "sample"
    assert equal(plan, weights, None, N // 2)


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("zeros", [0.0, 0.6, 1.0])
def test_many_zeros(zeros, share):
    w = torch.randn(N) * (torch.rand(N) >= zeros)
    plan = TopkMask([w])
    assert equal(plan, [w], None, round(share * N))
    assert path(plan) == "sample"
    assert equal(plan, [w], None, round(share * N))


def test_what_no_sample_can_bracket():
    few = torch.randint(0, 12, (N,)).float()  # the k-th largest is often not the sample's
    spread = torch.cat([few, 5 + torch.arange(N) / N])
    plan = TopkMask([few, spread])
    for k in range(0, 2 * N, N // 4):
        assert equal(plan, [few, spread], None, k)


@pytest.mark.parametrize("period", [2, 64, 100, 128, 183, 8192])
def test_periodic_scores(period):
    w = (torch.arange(N) % period + 1).float() * torch.linspace(1, 1.001, N)
    assert equal(TopkMask([w]), [w], None, N // 10)


def test_the_fallback_is_the_same():
    weights = [torch.randn(N).round(decimals=2), torch.randn(99)]
    plan = TopkMask(weights)
    plan._radix = True
    for k in (0, 1, N // 3, N + 99):
        assert equal(plan, weights, None, k)


def test_a_thousand_tiny_tensors():
    weights = [torch.randn(n % 70) for n in range(1000)]
    grads = [torch.randn_like(w) for w in weights]
    plan = TopkMask(weights, score="snip")
    for k in (3_000, 3_100, 30_000):
        assert equal(plan, weights, grads, k, score="snip")


def test_unaligned_views():
    flat, g = torch.randn(2, N + 9)
    weights = [flat[1:7], flat[7:N], flat[N + 3 :]]
    grads = [g[1:7], g[7:N], g[N + 3 :]]
    plan = TopkMask(weights, score="snip")
    assert equal(plan, weights, grads, N // 10, score="snip")


def test_strided_tensors_are_copied_in_every_call():
    base = torch.randn(40, 60)
    g = torch.randn(60, 40)
    plan = TopkMask([base.t()], score="snip")
    for _ in range(2):
        base.mul_(torch.randn_like(base))
        assert equal(plan, [base.t()], [g], 100, score="snip")


def test_weights_and_gradients_that_move():
    w = torch.nn.Parameter(torch.randn(500))
    plan = TopkMask([w], score="snip")
    for _ in range(3):
        w.data = torch.randn(500)
        g = torch.randn(500)
        assert equal(plan, [w.detach()], [g], 50, score="snip")


def test_masks_are_reused():
    plan = TopkMask([torch.randn(5, 8)])
    first, second = plan(None, 3)[0], plan(None, 9)[0]
    assert first.data_ptr() == second.data_ptr()
    assert int(first.sum()) == 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_infinity_is_the_largest(dtype):
    w = torch.randn(N).to(dtype)
    w[::1000] = -torch.inf
    assert equal(TopkMask([w]), [w], None, 10)
    assert equal(TopkMask([w]), [w], None, N // 5)


def test_bits_by_hand():
    w = torch.tensor([9.0, 1.0, 1.0, 8.0, 1.0, 1.0, 1.0, 1.0, 7.0])
    assert TopkMask([w], bits=True)(None, 3)[0].tolist() == [0b1001, 1]


def test_per_layer_by_hand():
    plan = TopkMask([torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 1.0])], per_layer=True)
    assert [m.tolist() for m in plan(None, [2, 1])] == [[True, False, True], [True, False]]


def test_nan_is_named():
    good, bad = torch.randn(N), torch.randn(N)
    bad[N // 2 :: 25_000] = torch.nan
    plan = TopkMask([good, bad], names=["a", "b"])
    with pytest.raises(ValueError, match="score of 'b' has 2 NaN entries"):
        plan(None, 1000)
    bad.nan_to_num_()
    assert equal(plan, [good, bad], None, 1000)


@pytest.mark.parametrize("per_layer", [False, True])
def test_unchecked_nan_keeps_nothing(per_layer, device):
    weights = [torch.randn(N, device=device), torch.randn(9, device=device)]
    weights[0][7] = torch.nan
    plan = TopkMask(weights, per_layer=per_layer, check=False)
    masks = plan(None, [10, 3] if per_layer else 10)
    assert not masks[0].any()
    assert int(masks[1].sum()) == (3 if per_layer else 0)


BAD = [
    ({}, {"k": -1}, ValueError, "k must not be negative, got -1"),
    ({}, {"k": 7}, ValueError, "k=7 exceeds the 6 candidates"),
    ({}, {"k": [3]}, TypeError, r"k must be one int, got \[3\]"),
    ({"per_layer": True}, {"k": 3}, TypeError, "k must be a list, one a weight, got 3"),
    ({"per_layer": True}, {"k": [1, 1]}, ValueError, "1 weights, but 2 k"),
    ({"per_layer": True}, {"k": [7]}, ValueError, "k=7 exceeds the 6 candidates"),
    ({"score": "snip"}, {"k": 1}, ValueError, "score 'snip' needs grads, got None"),
    (
        {"score": "snip"},
        {"k": 1, "grads": [torch.ones(3, 2)]},
        ValueError,
        r"grad of tensor 0's shape is \(3, 2\), its weight's is \(2, 3\)",
    ),
]


@pytest.mark.parametrize(("how", "call", "error", "message"), BAD, ids=[m for *_, m in BAD])
def test_bad_input(how, call, error, message):
    plan = TopkMask([torch.ones(2, 3)], **how)
    with pytest.raises(error, match=f"topk_mask: {message}"):
        plan(call.get("grads"), call["k"])


def test_a_weight_of_another_shape_is_refused():
    w = torch.nn.Parameter(torch.ones(6))
    plan = TopkMask([w])
    w.data = torch.ones(5)
    with pytest.raises(ValueError, match="tensor 0's shape, dtype and device is"):
        plan(None, 1)


def test_nothing_to_choose_from():
    assert TopkMask([])(None, 0) == []
    assert TopkMask([torch.ones(0, 3)])(None, 0)[0].shape == (0, 3)


def test_bad_bits():
    with pytest.raises(TypeError, match="bits_of: mask must be bool, got torch.float32"):
        bits_of(torch.ones(3))
    with pytest.raises(TypeError, match="mask_of: bits must be uint8, got torch.int64"):
        mask_of(torch.ones(1, dtype=torch.int64), [3])
    with pytest.raises(ValueError, match=r"mask of shape \(3, 3\) needs \[2\] bytes, got \[1\]"):
        mask_of(torch.zeros(1, dtype=torch.uint8), [3, 3])


@pytest.mark.slow
def test_more_than_two_to_the_31():
    n = 2**31 + 12_345
    w = torch.ones(n, dtype=torch.bfloat16)
    w[-3:] = 2
    w[2**31] = 0.5
    keep = topk_mask([w], k=n - 2)[0]  # all but the 0.5, and of the ones the last
    assert keep[-4:].tolist() == [False, True, True, True]
    assert not keep[2**31]
    assert int(keep.sum()) == n - 2
