import pytest
import torch

from sparsetrain.ops import (
    from_blocked,
    from_blocked_reference,
    to_blocked,
    to_blocked_reference,
    with_halo,
    with_halo_reference,
)
from sparsetrain.ops.blocked import BLOCKED_DTYPES

SHAPES = [  # of x, and lanes
    ((0, 3, 4, 5), 8),
    ((3, 0, 4, 5), 1),
    ((1, 1, 1, 1), 1),
    ((2, 5, 7, 63), 2),
    ((12, 17, 5, 3), 4),
    ((16, 3, 4, 4), 8),
    ((32, 33, 3, 17), 16),
    ((128, 65, 1, 1), 64),
    ((128, 2, 3, 5), 128),
    ((5, 65, 7, 65), 1),
]
HALOS = [(0, 0), (1, 1), (0, 2), (3, 0)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("dtype", BLOCKED_DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("halo", HALOS, ids=str)
@pytest.mark.parametrize(("shape", "lanes"), SHAPES, ids=str)
def test_equals_reference_and_comes_back(shape, lanes, halo, layout, dtype):
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout)
    data = to_blocked(x, lanes, halo)
    assert torch.equal(data, to_blocked_reference(x, lanes, halo))
    assert data.is_contiguous()
    back = from_blocked(data, halo, channels_last=layout is torch.channels_last)
    assert torch.equal(back, x)
    assert back.is_contiguous(memory_format=layout)
    assert torch.equal(from_blocked_reference(data, halo), x)


@pytest.mark.parametrize("halo", HALOS, ids=str)
@pytest.mark.parametrize("new_halo", HALOS, ids=str)
@pytest.mark.parametrize("dtype", BLOCKED_DTYPES, ids=str)
def test_halo_equals_reference(dtype, halo, new_halo):
    data = to_blocked(torch.randn(8, 3, 5, 7, dtype=dtype), 4, halo)
    mine = with_halo(data, halo, new_halo)
    assert torch.equal(mine, with_halo_reference(data, halo, new_halo))
    assert (mine is data) == (halo == new_halo)


def test_worked_by_hand():
    x = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 4.0]]]])  # two images of one row of two pixels
    assert to_blocked(x, 2, (0, 1)).tolist() == [[[[[0, 0], [1, 3], [2, 4], [0, 0]]]]]


def test_every_bit_moves():
    x = torch.arange(-(2**15), 2**15).to(torch.int32).mul(65537).view(torch.float32)
    x = x.view(16, 16, 16, 16)  # NaN with payloads among them
    back = from_blocked(to_blocked(x, 16, (1, 1)), (1, 1))
    assert torch.equal(back.view(torch.int32), x.view(torch.int32))


def test_strided_input():
    x = torch.randn(8, 6, 5, 7)
    for view in (x.transpose(2, 3), x[:, ::2], x[::2], x[:, :, 1:]):
        assert torch.equal(to_blocked(view, 4, (1, 1)), to_blocked_reference(view, 4, (1, 1)))
    data = to_blocked(x, 4, (1, 1)).transpose(2, 3)
    assert torch.equal(from_blocked(data, (1, 1)), x.transpose(2, 3))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_threads_agree(layout):
    x = torch.randn(16, 40, 15, 17).contiguous(memory_format=layout)
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        data = to_blocked(x, 8, (2, 1))
        assert torch.equal(data, to_blocked_reference(x, 8, (2, 1)))
        assert torch.equal(from_blocked(data, (2, 1), layout is torch.channels_last), x)
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradients(layout):
    x = torch.randn(4, 2, 3, 2, dtype=torch.float64).contiguous(memory_format=layout)
    x.requires_grad_()
    data = torch.randn(2, 2, 5, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: to_blocked(x, 2, (1, 2)), x)
    torch.autograd.gradcheck(
        lambda d: from_blocked(d, (1, 0), channels_last=layout is torch.channels_last), data
    )
    torch.autograd.gradcheck(lambda d: with_halo(d, (1, 0), (0, 2)), data)
    (dx,) = torch.autograd.grad(to_blocked(x, 2).sum(), x)
    assert dx.is_contiguous(memory_format=layout)


# torch's own, when it traces a Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles():
    def loss(x):
        return from_blocked(with_halo(to_blocked(x, 2, (1, 1)), (1, 1), (0, 2)), (0, 2)).square()

    x = torch.randn(4, 3, 5, 2, requires_grad=True)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    (dx,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(dx, 2 * x.detach(), rtol=0, atol=0)


def test_bad_input():
    x, data = torch.ones(6, 2, 3, 3), torch.ones(2, 3, 4, 4, 2)
    with pytest.raises(ValueError, match=r"x must be \[N, C, H, W\], got shape \(6, 2\)"):
        to_blocked(x[:, :, 0, 0], 2)
    with pytest.raises(TypeError, match="x must be fp32, fp64 or bf16, got torch.int64"):
        to_blocked(x.long(), 2)
    for lanes in (0, 3, 4):
        with pytest.raises(ValueError, match=f"power of two that divides N=6, got {lanes}"):
            to_blocked(x, lanes)
    with pytest.raises(ValueError, match=r"two numbers from 0 up, rows and columns, got \(0, -1\)"):
        to_blocked(x, 2, (0, -1))
    with pytest.raises(
        ValueError, match=r"from_blocked: data must be \[B, C, H, W, L\], got shape"
    ):
        from_blocked(x)
    with pytest.raises(TypeError, match="data must be fp32, fp64 or bf16, got torch.float16"):
        with_halo(data.half(), (0, 0), (1, 1))
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4, 2\) is smaller than its halo \(3, 0\)"):
        from_blocked(data, (3, 0))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_registration(layout):
    ops = torch.ops.sparsetrain
    x = torch.randn(4, 3, 2, 5).contiguous(memory_format=layout)
    torch.library.opcheck(ops.to_blocked.default, (x, 2, [1, 1]))
    data = torch.randn(2, 3, 4, 5, 2)
    torch.library.opcheck(ops.from_blocked.default, (data, [1, 0], layout is torch.channels_last))
    torch.library.opcheck(ops.with_halo.default, (data, [1, 0], [0, 2]))
