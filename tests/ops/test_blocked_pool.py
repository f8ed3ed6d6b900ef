import pytest
import torch

from sparsetrain.ops import (
    blocked_adaptive_avg_pool,
    blocked_avg_pool,
    blocked_max_pool,
    blocked_pool_reference,
    from_blocked,
    to_blocked,
)

SHAPES = [  # of x, lanes, halo, new halo
    ((0, 3, 8, 8), 4, (1, 1), (0, 0)),
    ((1, 1, 7, 9), 1, (0, 0), (1, 1)),
    ((4, 3, 8, 8), 2, (1, 1), (0, 0)),
    ((4, 5, 63, 6), 4, (2, 0), (0, 2)),
    ((16, 2, 9, 7), 8, (0, 0), (0, 0)),
    ((16, 3, 8, 10), 16, (1, 1), (1, 1)),
    ((64, 2, 6, 6), 64, (0, 0), (1, 1)),
]
SLIDING = [  # kernel, stride, padding, and ceil_mode
    ((2,), False),
    ((3, 2, 1), False),
    ((3, 1), False),
    ((2, 3), False),
    ((3, 2, 1), True),
    (((3, 2), (2, 3), (1, 0)), True),
]
POOLS = {"max_pool2d": blocked_max_pool, "avg_pool2d": blocked_avg_pool}


def check(pool, reference, shape, lanes, halo, new_halo, args, options, dtype=torch.float32):
    """Equal to the reference, forward and backward; halos are zero."""
    x = torch.randint(-3, 4, shape).to(dtype)  # equal numbers are frequent, sums exact
    data = to_blocked(x, lanes, halo).requires_grad_()
    y = pool(data, halo, *args, **options, new_halo=new_halo)
    wanted = blocked_pool_reference(reference, data, halo, *args, **options, new_halo=new_halo)
    torch.testing.assert_close(y, wanted)
    dy = to_blocked(torch.randint(1, 9, from_blocked(y, new_halo).shape).to(dtype), lanes, new_halo)
    mine, wanted = (torch.autograd.grad(t, data, dy)[0] for t in (y, wanted))
    torch.testing.assert_close(mine, wanted)
    assert torch.equal(mine, to_blocked(from_blocked(mine, halo), lanes, halo))


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize(("args", "ceil_mode"), SLIDING, ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_equals_reference(name, args, ceil_mode, case):
    check(POOLS[name], name, *case, args, {"ceil_mode": ceil_mode})


@pytest.mark.parametrize("case", SHAPES[1:], ids=str)
def test_mean_without_padding_equals_reference(case):
    check(blocked_avg_pool, "avg_pool2d", *case, (3, 2, 1), {"count_include_pad": False})


@pytest.mark.parametrize("size", [1, (3, 4), 8], ids=str)
@pytest.mark.parametrize("case", SHAPES[1:], ids=str)
def test_adaptive_equals_reference(case, size):
    check(blocked_adaptive_avg_pool, "adaptive_avg_pool2d", *case, (size,), {})


@pytest.mark.parametrize("name", POOLS)
def test_double_equals_reference(name):
    check(POOLS[name], name, *SHAPES[5], (3, 2, 1), {}, torch.float64)


@pytest.mark.parametrize("pool", [blocked_max_pool, blocked_avg_pool])
@pytest.mark.parametrize(("shape", "lanes", "halo", "new_halo"), SHAPES, ids=str)
def test_bf16_is_fp32_rounded_once(shape, lanes, halo, new_halo, pool):
    x = to_blocked(torch.randn(shape).bfloat16(), lanes, halo)
    found, dy = [], None
    for data in (x, x.float()):
        data.requires_grad_()
        y = pool(data, halo, 3, 2, 1, new_halo=new_halo)
        dy = torch.randn_like(y) if dy is None else dy.float()
        found.append((y, torch.autograd.grad(y, data, dy)[0]))
    for mine, full in zip(*found, strict=True):
        assert torch.equal(mine, full.bfloat16())


def test_padding_is_never_the_maximum():
    data = to_blocked(torch.full((2, 1, 3, 3), -5.0), 2)
    assert blocked_max_pool(data, (0, 0), 3, 1, 1).eq(-5).all()
    nothing = torch.full_like(data, -torch.inf).requires_grad_()
    y = blocked_max_pool(nothing, (0, 0), 3, 1, 1)
    (dx,) = torch.autograd.grad(y.sum(), nothing)
    assert dx[0, 0, :, :, 0].tolist() == [[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_nan_is_the_maximum():
    x = torch.tensor([1.0, torch.nan, 2.0, 3.0]).view(1, 1, 1, 4)
    y = blocked_max_pool(to_blocked(x, 1), (0, 0), (1, 2))
    assert y.nan_to_num(9.0).flatten().tolist() == [9.0, 3.0]


def test_worked_by_hand():
    x = torch.tensor([[1.0, 4.0, 4.0, 0.0], [2.0, 4.0, 3.0, 1.0]]).view(1, 1, 2, 4)
    data = to_blocked(x, 1).requires_grad_()
    y = blocked_max_pool(data, (0, 0), 2)
    assert y.flatten().tolist() == [4.0, 4.0]
    (dx,) = torch.autograd.grad(y.sum(), data)
    assert dx.flatten().tolist() == [0, 1, 1, 0, 0, 0, 0, 0]  # the first of two fours
    assert blocked_avg_pool(data, (0, 0), 2).flatten().tolist() == [2.75, 2.0]
    assert blocked_adaptive_avg_pool(data, (0, 0), 1).flatten().tolist() == [2.375]


@pytest.mark.parametrize("name", POOLS)
def test_threads_agree(name):
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        check(POOLS[name], name, (16, 40, 15, 17), 8, (1, 1), (0, 0), (3, 2, 1), {})
    torch.set_num_threads(before)


def test_gradient():
    x = torch.randperm(4 * 2 * 5 * 4).double().view(4, 2, 5, 4).requires_grad_()
    for pool, args in (
        (blocked_max_pool, (3, 2, 1)),
        (blocked_avg_pool, (3, 2, 1)),
        (blocked_adaptive_avg_pool, ((2, 3),)),
    ):
        torch.autograd.gradcheck(
            lambda x, p=pool, a=args: p(to_blocked(x, 2, (1, 0)), (1, 0), *a, new_halo=(0, 1)), x
        )


# torch's own, when it traces a Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles():
    def loss(data):
        y = blocked_max_pool(data, (1, 1), 3, 2, 1)
        return blocked_adaptive_avg_pool(y, (1, 1), 1).square().sum()

    data = to_blocked(torch.randn(4, 3, 6, 5), 2, (1, 1)).requires_grad_()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    mine, wanted = (torch.autograd.grad(f(data), data)[0] for f in (compiled, loss))
    assert torch.equal(mine, wanted)


def test_bad_input():
    data = torch.ones(2, 3, 4, 4, 2)
    with pytest.raises(ValueError, match=r"blocked_max_pool: data must be \[B, C, H, W, L\]"):
        blocked_max_pool(data[0], (0, 0), 2)
    with pytest.raises(TypeError, match="blocked_avg_pool: data must be fp32, fp64 or bf16"):
        blocked_avg_pool(data.half(), (0, 0), 2)
    with pytest.raises(ValueError, match=r"256 places at most, got \(17, 17\)"):
        blocked_max_pool(data, (0, 0), 17)
    with pytest.raises(ValueError, match="up to half the kernel, got 2, 2, 2"):
        blocked_max_pool(data, (0, 0), 2, padding=2)
    with pytest.raises(ValueError, match="kernel 7 is larger than 4 pixels, padding 1 and all"):
        blocked_avg_pool(data, (0, 0), 7, 1, 1)
    with pytest.raises(ValueError, match=r"\(4, 4\) pixels cannot become \(0, 0\)"):
        blocked_adaptive_avg_pool(data, (0, 0), 0)
    with pytest.raises(ValueError, match="a halo is two numbers from 0 up"):
        blocked_avg_pool(data, (0, 0), 2, new_halo=(-1, 0))


def test_registration():
    ops, axis, halos = torch.ops.sparsetrain, [0, 2, 3, 1, 4, 3], ([1, 1], [0, 1])
    data = torch.randn(2, 3, 6, 6, 2)
    y, place = ops.blocked_max_pool(data, axis, axis, *halos)
    args = (data, axis, axis, *halos)
    torch.library.opcheck(ops.blocked_max_pool.default, args)
    torch.library.opcheck(ops.blocked_avg_pool.default, args)
    back = (axis, axis, [4, 4], *halos)
    torch.library.opcheck(ops.blocked_max_pool_backward.default, (y, place, *back))
    torch.library.opcheck(ops.blocked_avg_pool_backward.default, (y, *back))
