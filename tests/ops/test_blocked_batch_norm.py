import pytest
import torch
from torch.nn import functional as F

from sparsetrain.ops import (
    blocked_batch_norm,
    blocked_batch_norm_reference,
    from_blocked,
    to_blocked,
)

SHAPES = [  # of x, lanes, halo, new halo
    ((2, 3, 1, 1), 1, (0, 0), (1, 1)),
    ((4, 7, 3, 5), 2, (1, 1), (0, 0)),
    ((16, 63, 4, 4), 16, (1, 1), (1, 1)),
    ((8, 5, 7, 65), 8, (0, 0), (0, 0)),
    ((64, 2, 9, 9), 64, (1, 2), (2, 0)),
    ((3, 65, 5, 5), 1, (0, 0), (0, 0)),
]


def case(shape, dtype=torch.float32, offset=3.0):
    """x, its batch norm's four tensors, and dy."""
    x = torch.randn(shape, dtype=dtype) * 2 + offset
    c = shape[1]
    running = [torch.randn(c, dtype=dtype), torch.rand(c, dtype=dtype) + 0.5]
    affine = [torch.randn(c, dtype=dtype), torch.randn(c, dtype=dtype)]
    return x, running, affine, torch.randn(shape, dtype=dtype)


def through_torch(x, running, affine, dy, training, relu):
    x, *affine = (t.clone().requires_grad_() for t in (x, *affine))
    y = F.batch_norm(x, *running, *affine, training)
    y = F.relu(y) if relu else y
    return [y.detach(), *torch.autograd.grad(y, (x, *affine), dy)], y.detach()


def through_blocked(x, running, affine, dy, training, relu, lanes, halo, new_halo):
    data = to_blocked(x, lanes, halo).requires_grad_()
    affine = [t.clone().requires_grad_() for t in affine]
    y = blocked_batch_norm(
        data, halo, *running, *affine, training=training, relu=relu, new_halo=new_halo
    )
    dy = to_blocked(dy, lanes, new_halo)
    dx, *rest = torch.autograd.grad(y, (data, *affine), dy)
    for t, edge in ((y, new_halo), (dx, halo)):
        assert torch.equal(t, to_blocked(from_blocked(t.detach(), edge), lanes, edge))
    return [from_blocked(y.detach(), new_halo), from_blocked(dx, halo), *rest]


def check_within_budget(mine, torchs, truth):
    """At most twice the error of torch, and one rounding step of the largest number."""
    for m, t, exact in zip(mine, torchs, truth, strict=True):
        step = torch.finfo(m.dtype).eps * exact.abs().max()
        error, budget = ((r.double() - exact).abs().max() for r in (m, t))
        assert error <= 2 * budget + step


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("shape", "lanes", "halo", "new_halo"), SHAPES, ids=str)
def test_error_is_that_of_torch(shape, lanes, halo, new_halo, training, relu):
    x, running, affine, dy = case(shape)
    doubles = [[t.double() for t in each] for each in (running, affine)]
    truth, y = through_torch(x.double(), *doubles, dy.double(), training, relu)
    if relu:
        dy[(y.abs() < 1e-4) & (y != 0)] = 0  # where rounding may decide what passes
        truth, _ = through_torch(x.double(), *doubles, dy.double(), training, relu)
    runs = [[t.clone() for t in running] for _ in range(2)]
    torchs, _ = through_torch(x, runs[0], affine, dy, training, relu)
    mine = through_blocked(x, runs[1], affine, dy, training, relu, lanes, halo, new_halo)
    check_within_budget(mine, torchs, truth)
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("shape", "lanes", "halo", "new_halo"), SHAPES, ids=str)
def test_bf16_is_fp32_rounded_once(shape, lanes, halo, new_halo, training, relu):
    x, running, affine, dy = case(shape)
    x, dy, found = x.bfloat16(), dy.bfloat16(), []
    for each in ((x, dy), (x.float(), dy.float())):
        kept = [t.clone() for t in running]
        how = (training, relu, lanes, halo, new_halo)
        found.append((*through_blocked(each[0], kept, affine, each[1], *how), *kept))
    for mine, full in zip(*found, strict=True):
        assert torch.equal(mine, full.to(mine.dtype))
    assert [t.dtype for t in found[0]] == [torch.bfloat16] * 2 + [torch.float32] * 4


@pytest.mark.parametrize("training", [False, True])
def test_mean_far_from_zero(training):
    x, running, affine, dy = case((16, 5, 12, 12), offset=1e3)
    doubles = [[t.double() for t in each] for each in (running, affine)]
    truth, _ = through_torch(x.double(), *doubles, dy.double(), training, False)
    torchs, _ = through_torch(x, running, affine, dy, training, False)
    mine = through_blocked(x, running, affine, dy, training, False, 8, (1, 1), (1, 1))
    check_within_budget(mine, torchs, truth)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_equals_reference(training, relu):
    x, running, affine, _ = case((8, 5, 6, 7), torch.float64)
    data = to_blocked(x, 4, (1, 1))
    options = {"training": training, "relu": relu, "new_halo": (0, 2), "momentum": 0.3, "eps": 0.1}
    mine, wanted = ([t.clone() for t in running] for _ in range(2))
    y = blocked_batch_norm(data, (1, 1), *mine, *affine, **options)
    torch.testing.assert_close(
        y, blocked_batch_norm_reference(data, (1, 1), *wanted, *affine, **options)
    )
    torch.testing.assert_close(mine, wanted)


def test_worked_by_hand():
    data = to_blocked(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), 2)
    running = torch.zeros(1), torch.ones(1)
    y = blocked_batch_norm(
        data, (0, 0), *running, torch.full((1,), 2.0), torch.ones(1), training=True, eps=3.0
    )
    assert y.flatten().tolist() == [0.0, 2.0]  # (x - 2) 2 / sqrt(1 + 3) + 1
    torch.testing.assert_close([t.item() for t in running], [0.2, 0.9 + 0.1 * 2])


def test_without_affine_or_running_statistics():
    data = to_blocked(torch.randn(4, 3, 5, 5), 4)
    y = blocked_batch_norm(data, (0, 0), None, None, training=True, eps=0)
    torch.testing.assert_close(y.mean((0, 2, 3, 4)), torch.zeros(3))
    torch.testing.assert_close(y.square().mean((0, 2, 3, 4)), torch.ones(3))


def test_nan_passes_the_relu():
    data = torch.tensor([torch.nan, -1.0, 2.0]).view(1, 1, 1, 3, 1)
    y = blocked_batch_norm(data, (0, 0), torch.zeros(1), torch.ones(1), relu=True, eps=0)
    assert y.nan_to_num(9.0).flatten().tolist() == [9.0, 0.0, 2.0]


def test_threads_agree():
    x, running, affine, dy = case((16, 9, 15, 17))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        args = (x, running, affine, dy, True, True, 8, (1, 1), (1, 1))
        results.append(through_blocked(*args))
    torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_gradient(training, relu):
    x, running, affine, _ = case((4, 2, 3, 2), torch.float64)
    data = to_blocked(x, 2, (1, 0)).requires_grad_()
    affine = [t.requires_grad_() for t in affine]

    def inner(x, weight, bias):  # from x: a halo is zero by contract
        args = (to_blocked(x, 2, (1, 0)), (1, 0), *[t.clone() for t in running], weight, bias)
        return blocked_batch_norm(*args, training=training, relu=relu, new_halo=(0, 1))

    torch.autograd.gradcheck(inner, (x.requires_grad_(), *affine))
    y = blocked_batch_norm(data, (1, 0), *running, *affine, training=training, relu=relu)
    saved = [t.data_ptr() for t in y.grad_fn.saved_tensors]
    assert data.data_ptr() in saved
    assert y.data_ptr() not in saved


# torch's own, when it traces a Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles():
    def loss(x, weight):
        y = blocked_batch_norm(x, (1, 1), None, None, weight, training=True, relu=True)
        return y.square().sum()

    x, weight = to_blocked(torch.randn(4, 3, 5, 2), 2, (1, 1)), torch.ones(3, requires_grad=True)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    mine, wanted = (torch.autograd.grad(f(x, weight), weight)[0] for f in (compiled, loss))
    assert torch.equal(mine, wanted)


def test_nothing():
    data = torch.zeros(0, 3, 4, 4, 8, requires_grad=True)
    y = blocked_batch_norm(data, (1, 1), torch.zeros(3), torch.ones(3), training=True)
    assert y.shape == data.shape
    assert torch.autograd.grad(y.sum(), data)[0].shape == data.shape


def test_bad_input():
    data, c = torch.ones(1, 3, 1, 1, 1), torch.ones(3)
    with pytest.raises(ValueError, match=r"blocked_batch_norm: data must be \[B, C, H, W, L\]"):
        blocked_batch_norm(c, (0, 0), c, c)
    with pytest.raises(ValueError, match="training needs more than one number a channel"):
        blocked_batch_norm(data, (0, 0), c, c, training=True)
    with pytest.raises(ValueError, match="running_mean and running_var are needed to evaluate"):
        blocked_batch_norm(data, (0, 0), c, None)
    with pytest.raises(ValueError, match=r"bias must be \[3\], got shape \(2,\)"):
        blocked_batch_norm(data, (0, 0), c, c, c, c[:2])
    with pytest.raises(TypeError, match="weight is torch.float64, data is torch.float32"):
        blocked_batch_norm(data, (0, 0), c, c, c.double())
    with pytest.raises(TypeError, match="weight is torch.bfloat16, data is torch.bfloat16"):
        blocked_batch_norm(data.bfloat16(), (0, 0), c, c, c.bfloat16())


@pytest.mark.parametrize("training", [False, True])
def test_registration(training):
    x, running, affine, dy = case((4, 3, 2, 5))
    ops, halo, to = torch.ops.sparsetrain, [1, 1], [0, 1]
    data = to_blocked(x, 2, (1, 1))
    known = [None, None] if training else running
    args = (data, *affine, *known, 1e-5, True, halo, to)
    torch.library.opcheck(ops.blocked_batch_norm.default, args)
    tensors = (to_blocked(dy, 2, (0, 1)), data, *affine, *running)
    options = (1e-5, True, training, halo, to)
    torch.library.opcheck(ops.blocked_batch_norm_backward.default, (*tensors, *options))
