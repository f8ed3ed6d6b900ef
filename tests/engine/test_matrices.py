"""Products of two matrices, and attention, of the engine against PyTorch in double."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from engine.calls import call, empty, laid

from sparsetrain_runtime.library import EngineError

SIZES = [(1, 1, 1), (1, 70, 33), (70, 1, 5), (13, 33, 0), (12, 64, 200), (25, 95, 17), (100, 7, 31)]
SWAPPED = ((0, 1), (1, 0))


def close(found, wanted, terms):
    """To the rounding of sums of that many products of numbers of about one."""
    room = 4e-7 * math.sqrt(max(terms, 1)) * 4
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=room)


@pytest.mark.parametrize(("m", "n", "k"), SIZES)
@pytest.mark.parametrize("gap", [0, 1])
def test_matmul_of_any_strides(m, n, k, gap):
    a, b = torch.randn(m, k), torch.randn(k, n)
    for orders in itertools.product(SWAPPED, repeat=3):
        left, right = laid(a, orders[0], gap), laid(b, orders[1], gap)
        y = call("matmul", [left, right], empty((m, n), orders[2], gap))
        close(y, a.double() @ b.double(), k)


def test_matmul_of_spaced_numbers():
    a, b = torch.randn(30, 60)[::2, ::3], torch.randn(60, 90)[::3, ::2]
    y = empty((30, 135))[::2, ::3]
    close(call("matmul", [a, b], y), a.double() @ b.double(), 20)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_matmul_larger_than_its_blocks(threads):
    for m, n, k in [(130, 700, 500), (700, 130, 400), (40, 1100, 30)]:
        a, b = torch.randn(m, k), torch.randn(n, k).T
        y = call("matmul", [a, b], empty((m, n)), threads=threads)
        close(y, a.double() @ b.double(), k)


@pytest.mark.parametrize("threads", [1, 2])
def test_matmul_of_batches(threads):
    a, b = torch.randn(3, 1, 17, 9), torch.randn(1, 5, 9, 33)
    for order in [(0, 1, 2, 3), (1, 3, 0, 2), (2, 3, 1, 0)]:
        wide = [a.expand(3, 5, 17, 9), laid(b.expand(3, 5, 9, 33), order)]
        y = call("matmul", wide, empty((3, 5, 17, 33), order), threads=threads)
        close(y, a.double() @ b.double(), 9)
    assert call("matmul", [a[:0, 0], b[:0, 0]], empty((0, 17, 33))).numel() == 0


def test_matmul_keeps_nan_where_it_is():
    a, b = torch.randn(20, 30), torch.randn(30, 40)
    a[3, 4], b[5, 6] = math.nan, math.inf
    y = call("matmul", [a, b], empty((20, 40)))
    torch.testing.assert_close(y, a @ b, rtol=1e-4, atol=1e-5, equal_nan=True)


HEADS = [(0, 1, 2, 3), (1, 3, 0, 2), (0, 2, 1, 3)]
SHAPES = [  # B, H, T, S, D, E
    (1, 1, 1, 1, 1, 1),
    (2, 3, 7, 7, 5, 5),
    (1, 2, 65, 33, 16, 8),
    (3, 1, 1, 70, 8, 8),
    (2, 2, 300, 290, 4, 12),
    (1, 1, 40, 3000, 4, 4),
]


def heads(b, h, t, s, d, e):
    return torch.randn(b, h, t, d), torch.randn(b, h, s, d), torch.randn(b, h, s, e)


def attended(q, k, v, mask=None, causal=False, scale=0.3, order=(0, 1, 2, 3), threads=2):
    inputs = [laid(x, order) for x in (q, k, v)]
    if mask is not None:
        inputs.append(mask.expand(*q.shape[:3], k.shape[2]))
    y = empty((*q.shape[:3], v.shape[3]), order)
    return call("attention", inputs, y, [scale, int(causal)], threads)


def torchs(q, k, v, mask=None, causal=False, scale=0.3):
    if mask is not None and mask.dtype == torch.float32:
        mask = mask.double()
    q, k, v = q.double(), k.double(), v.double()
    return F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale).float()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", HEADS)
@pytest.mark.parametrize("causal", [False, True])
def test_attention(shape, order, causal):
    q, k, v = heads(*shape)
    y = attended(q, k, v, causal=causal, order=order)
    torch.testing.assert_close(y, torchs(q, k, v, causal=causal), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("order", HEADS)
@pytest.mark.parametrize("shape", [(1, 1, 40, 33), (2, 1, 1, 33), (1, 3, 40, 33), (2, 3, 40, 33)])
@pytest.mark.parametrize("flags", [False, True])
def test_attention_with_masks(order, shape, flags):
    q, k, v = heads(2, 3, 40, 33, 8, 8)
    mask = torch.rand(shape) > 0.4 if flags else torch.randn(shape)
    if not flags:
        mask[mask < -1] = -math.inf
    y = attended(q, k, v, mask, order=order)
    torch.testing.assert_close(y, torchs(q, k, v, mask), rtol=1e-5, atol=2e-6)


def test_tokens_that_see_nothing_get_zeros():
    q, k, v = heads(1, 1, 4, 5, 8, 8)
    mask = torch.ones(1, 1, 4, 5, dtype=torch.bool)
    mask[..., 2, :] = False
    hidden = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    for y in (attended(q, k, v, mask), attended(q, k, v, hidden)):
        assert (y[..., 2, :] == 0).all()
        torch.testing.assert_close(y, torchs(q, k, v, mask), rtol=1e-5, atol=2e-6)


def test_nan_stays_with_its_token():
    q, k, v = heads(1, 2, 40, 33, 8, 8)
    q[0, 0, 7] = math.nan
    y = attended(q, k, v)
    assert y[0, 0, 7].isnan().all()
    assert y.isnan().sum() == 8


def test_heads_of_one_tensor():
    packed = torch.randn(2, 20, 3, 4, 8)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    y = call("attention", [q, k, v], empty((2, 4, 20, 8), (0, 2, 1, 3)), [0.3, 0])
    torch.testing.assert_close(y, torchs(q, k, v), rtol=1e-5, atol=2e-6)


x, whole = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)
q, k = torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 6, 4)
REFUSED = [
    ("matmul", [x, x], x, [], "a's columns must be as many as b's rows"),
    ("matmul", [x, x.T], x, [], "y must have a's rows and b's columns"),
    ("matmul", [x[0], x], x, [], "a, b and y must be fp32 of 2 axes or more"),
    ("matmul", [x, whole.T], x, [], "a, b and y must be fp32"),
    ("matmul", [q, q.mT[:, :1]], torch.zeros(1, 2, 5, 5), [], "of one size before their last"),
    ("matmul", [q, x], torch.zeros(1, 2, 5, 5), [], "as many axes"),
    ("attention", [q, k], q, [1.0, 0], "q, k, v, perhaps a mask"),
    ("attention", [q, k, q], q, [1.0, 0], "k and v must have as many tokens"),
    ("attention", [q, k[..., :3], k], q, [1.0, 0], "q and k must be of one size D"),
    ("attention", [q, k[:, :1], k], q, [1.0, 0], "of one batch and as many heads"),
    ("attention", [q, k, k], k, [1.0, 0], r"y must be \[B, H, T, E\]"),
    ("attention", [q[0], k, k], q, [1.0, 0], "must be fp32 of 4 axes"),
    ("attention", [q, k, k, q], q, [1.0, 0], r"the mask must be \[B, H, T, S\]"),
    ("attention", [q, k, k, whole], q, [1.0, 0], "the mask must be fp32 or bool"),
    ("attention", [q, k, k], q, [math.nan, 0], "scale must be finite"),
    ("attention", [q, k, k], q, [1.0, 2], "the second attribute must be 0 or 1"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}: {case[-1]}"[:40])
def test_refuses(case):
    name, inputs, output, attributes, message = case
    with pytest.raises(EngineError, match=f"{name}: .*{message}"):
        call(name, inputs, output.clone(), attributes)
