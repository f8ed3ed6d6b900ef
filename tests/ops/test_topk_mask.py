import pytest
import torch

from sparsetrain.ops import topk_mask, topk_mask_reference
from sparsetrain.ops.dtypes import DTYPES
from sparsetrain.ops.topk_checks import SCORES

SIZES = [(0,), (1,), (7,), (63,), (5, 13), (70_000,)]  # the last has two chunks
FACTORS = {"alpha": 0.3, "beta": 1.7, "gamma": 0.1}


def tensors(device, dtypes, sizes=SIZES):
    """Weights and gradients, `dtypes` in turn, from a wide range of magnitudes."""
    pairs = []
    for i, size in enumerate(sizes):
        w, g = torch.randn(2, *size, device=device).mul(3).exp().to(dtypes[i % len(dtypes)])
        pairs.append((w * torch.randn_like(w).sign(), g))
    return tuple([t for t, _ in pairs]), tuple([t for _, t in pairs])


def equal(weights, grads=None, **how):
    """Whether masks equal the reference's and keep exactly k."""
    keep = topk_mask(weights, grads, **how)
    wanted = topk_mask_reference(weights, grads, **how)
    assert sum(int(m.sum()) for m in keep) == how["k"]
    return len(keep) == len(wanted) and all(map(torch.equal, keep, wanted))


@pytest.mark.parametrize("k", [0, 1, 70, 5_000, 69_999, 70_136])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score", SCORES)
def test_equals_reference(score, dtype, k, device):
    weights, grads = tensors(device, [dtype])
    assert equal(weights, grads, k=k, score=score, **FACTORS)


@pytest.mark.parametrize("seed", range(20))
def test_mixed_dtypes(seed, device):
    torch.manual_seed(seed)
    sizes = [(int(n),) for n in torch.randint(0, 3000, (9,))]
    weights, grads = tensors(device, DTYPES, sizes)
    k = int(torch.randint(0, sum(w.numel() for w in weights) + 1, ()))
    assert equal(weights, grads, k=k, score=SCORES[seed % 4], **FACTORS)


def test_every_k_with_ties(device):
    weights = [torch.randint(-2, 3, (n,), device=device).float() for n in (3, 0, 8, 5)]
    assert all(equal(weights, k=k) for k in range(17))


@pytest.mark.parametrize("k", [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000])
def test_all_equal_scores(k, device):
    assert equal([torch.full((n,), -2.0, device=device) for n in (65_537, 134_463)], k=k)


@pytest.mark.parametrize("k", [1, 5_000, 100_000, 199_999])
def test_heavy_ties(k, device):
    weights = [torch.randint(-3, 4, (n,), device=device).half() for n in (70_000, 130_000)]
    assert equal(weights, k=k)


@pytest.mark.parametrize("k", [0, 1, 300, 34_000])
@pytest.mark.parametrize("score", SCORES)
def test_within(score, k, device):
    weights, grads = tensors(device, DTYPES)
    within = [torch.rand(w.shape, device=device) < 0.5 for w in weights]
    assert equal(weights, grads, k=k, score=score, within=within, **FACTORS)


def test_all_candidates_kept(device):
    weights = [torch.randint(-2, 3, (n,), device=device).float() for n in (100, 70_000)]
    within = [torch.rand(w.shape, device=device) < 0.3 for w in weights]
    keep = topk_mask(weights, k=sum(int(m.sum()) for m in within), within=within)
    assert all(map(torch.equal, keep, within))


def test_every_half_and_bfloat16(device):
    every = torch.arange(-(2**15), 2**15, device=device).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = every.view(dtype)
        assert equal([x[~x.isnan()]], k=30_000)


def test_strided_inputs(device):
    w = torch.randn(16, 6, 5, 5, device=device)
    views = [w.transpose(0, 1), w[::2, 1::3], w.to(memory_format=torch.channels_last)]
    grads = [v.flip(0) for v in views]
    assert equal(views, grads, k=1000, score="snip")


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 5, 1), (2, 3, 4)])
@pytest.mark.parametrize("grad", [False, True])
def test_masks_are_laid_out_as_new_tensors_are(shape, grad, device):
    w = torch.randn(shape, device=device).requires_grad_(grad)
    (mask,) = topk_mask([w], k=w.numel() // 2)
    new = torch.empty(shape, dtype=torch.bool, device=device)
    assert (mask.shape, mask.stride(), mask.dtype) == (new.shape, new.stride(), new.dtype)
    assert mask.sum() == w.numel() // 2
    assert not mask.requires_grad


def test_subnormals_and_infinity(device):
    inf = float("inf")
    x = torch.tensor([-inf, 1e-45, 0.0, 3e-45, inf, 1e38, -0.0, -1e-40], device=device)
    assert all(equal([x], k=k) for k in range(9))


def test_worked_by_hand(device):
    weights = [
        torch.tensor([3.0, -1.0], device=device),
        torch.tensor([[-3.0], [2.0]], device=device),
    ]
    grads = [torch.tensor([0.0, 5.0], device=device), torch.tensor([[1.0], [-1.0]], device=device)]
    keep = topk_mask(weights, k=1)  # |w|: 3 1 3 2; the tie goes to the first tensor
    assert [m.tolist() for m in keep] == [[True, False], [[False], [False]]]
    keep = topk_mask(weights, grads, k=2, score="snip")  # |wg|: 0 5 3 2
    assert [m.tolist() for m in keep] == [[False, True], [[True], [False]]]
    # |w|/2 + 0 |wg| + 2 |g|: 1.5 10.5 3.5 3
    keep = topk_mask(weights, grads, k=3, score="blend", alpha=0.5, beta=0.0, gamma=2.0)
    assert [m.tolist() for m in keep] == [[False, True], [[True], [True]]]


@pytest.mark.parametrize("score", SCORES)
def test_threads_agree(score):
    weights, grads = tensors("cpu", DTYPES, [(300_000,), (77,), (150_001,)])
    weights = [w.round() for w in weights]  # ties across chunks
    before = torch.get_num_threads()
    masks = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        masks.append(topk_mask(weights, grads, k=99_999, score=score))
    torch.set_num_threads(before)
    assert all(map(torch.equal, masks[0], masks[1]))
    assert all(map(torch.equal, masks[0], masks[2]))


def test_gradient_and_magnitude_read_one_operand(device):
    x, bad = torch.randn(9, device=device), torch.full((9,), float("nan"), device=device)
    assert torch.equal(topk_mask([bad], [x], k=4, score="gradient")[0], topk_mask([x], k=4)[0])
    assert torch.equal(topk_mask([x], [bad], k=4)[0], topk_mask([x], k=4)[0])


def test_parameters_that_require_grad(device):
    w = torch.randn(9, device=device, requires_grad=True)
    assert not topk_mask([w], k=4)[0].requires_grad


@pytest.mark.parametrize("k", [0, 2, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_score(dtype, k, device):
    w = torch.ones(5, dtype=dtype, device=device)
    bad = torch.tensor([1.0, torch.nan, 2.0, -torch.nan, torch.nan], device=device).to(dtype)
    with pytest.raises(ValueError, match="score of 'conv1.weight' has 3 NaN entries"):
        topk_mask([w, bad], k=k, names=["bn1.weight", "conv1.weight"])
    with pytest.raises(ValueError, match="score of tensor 1 has 3 NaN entries"):
        topk_mask([w, w], [w, bad], k=k, score="snip")


def test_infinity_times_zero_is_nan(device):
    w, g = torch.tensor([[torch.inf, 1.0], [0.0, 1.0]], device=device)
    with pytest.raises(ValueError, match="score of tensor 0 has 1 NaN entry"):
        topk_mask([w], [g], k=1, score="snip")


def test_nan_outside_the_candidates(device):
    w = torch.tensor([1.0, torch.nan, 2.0], device=device)
    within = torch.tensor([True, False, True], device=device)
    assert topk_mask([w], k=1, within=[within])[0].tolist() == [False, False, True]


def test_nothing_to_choose_from(device):
    assert topk_mask([], k=0) == []
    assert topk_mask([torch.ones(0, 3, device=device)], k=0)[0].shape == (0, 3)


W = torch.ones(2, 3)
ALL = torch.ones(2, 3, dtype=torch.bool)
BAD = [
    ({"k": -1}, ValueError, "k must not be negative, got -1"),
    ({"k": 7}, ValueError, "k=7 exceeds the 6 candidates"),
    ({"weights": [], "k": 1}, ValueError, "k=1 exceeds the 0 candidates"),
    ({"k": 1, "within": [~ALL]}, ValueError, "k=1 exceeds the 0 candidates"),
    ({"k": 1, "score": "taylor"}, ValueError, "magnitude, snip, gradient, blend, got 'taylor'"),
    ({"k": 1, "beta": -1.0}, ValueError, "beta must be finite and not negative, got -1.0"),
    ({"k": 1, "score": "snip"}, ValueError, "score 'snip' needs grads, got None"),
    ({"k": 1, "score": "snip", "grads": []}, ValueError, "1 weights, but 0 grads"),
    ({"k": 1, "within": [ALL, ALL]}, ValueError, "1 weights, but 2 within"),
    ({"k": 1, "names": ["a", "b"]}, ValueError, "1 weights, but 2 names"),
    ({"k": 1, "weights": [W.int()]}, TypeError, "tensor 0 must be fp32, .*, got torch.int32"),
    (
        {"k": 1, "score": "snip", "grads": [W.half()], "names": ["a"]},
        TypeError,
        "grad of 'a' is torch.float16, its weight is torch.float32",
    ),
    (
        {"k": 1, "score": "snip", "grads": [W.t()]},
        ValueError,
        r"grad of tensor 0's shape is \(3, 2\), its weight's is \(2, 3\)",
    ),
    ({"k": 1, "within": [W]}, TypeError, "within of tensor 0 must be bool, got torch.float32"),
    ({"k": 1, "within": [ALL[0]]}, ValueError, r"within of tensor 0's shape is \(3,\)"),
    (
        {"k": 1, "weights": [W, W.to("meta")]},
        ValueError,
        "tensor 1's device is meta, tensor 0's is cpu",
    ),
]


@pytest.mark.parametrize(("how", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input(how, error, message):
    how = {"weights": [W], **how}
    with pytest.raises(error, match=f"topk_mask: .*{message}"):
        topk_mask(how.pop("weights"), **how)


@pytest.mark.parametrize("score", range(4))
def test_registration(score, device):
    weights, grads = tensors(device, DTYPES, [(4, 8), (7,)])
    within = [torch.ones_like(w, dtype=torch.bool) for w in weights]
    args = (list(weights), list(grads), within, 9, score, 1.0, 0.5, 0.25)
    torch.library.opcheck(torch.ops.sparsetrain.topk_mask.default, args)
