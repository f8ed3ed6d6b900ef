import pytest
import torch

from sparsetrain.ops import relu_density, relu_density_reference
from sparsetrain.ops.relu_density import DTYPES

SHAPES = [
    (0, 3),
    (1, 1),
    (63, 65),
    (5, 7, 1, 1),
    (2, 63, 65),
    (2, 3, 7, 5),
    (1, 2, 130, 131),  # longer than a run
    (20_000, 3),  # more rows than a run
    (0, 4, 2, 2),
    (2, 0, 3, 3),
    (3, 5, 2, 3, 4),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last, torch.channels_last_3d]
CASES = [
    (shape, layout)
    for shape in SHAPES
    for layout in LAYOUTS
    if layout is torch.contiguous_format or len(shape) == 4 + LAYOUTS.index(layout) - 1
]


def sample(shape, layout, dtype, device):
    """Small whole numbers, so that zeros of both signs are frequent, with NaN and infinities."""
    x = torch.randint(-3, 4, shape, device=device).div(2).to(dtype)
    rare = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, -0.0], dtype=dtype)
    x.view(-1)[: 50 * len(rare) : 10] = rare.to(device).repeat(5)[: len(x.view(-1)[:250:10])]
    return x.contiguous(memory_format=layout)


def check(mine, x):
    """Equal to the reference, NaN included, with the strides of x."""
    wanted = relu_density_reference(x)
    torch.testing.assert_close(mine[0], wanted[0], rtol=0, atol=0, equal_nan=True)
    assert mine[0].stride() == x.stride()
    assert torch.equal(mine[1], wanted[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=str)
def test_equals_reference(shape, layout, dtype, device):
    x = sample(shape, layout, dtype, device)
    check(relu_density(x), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=str)
def test_triton_equals_reference(shape, layout, dtype):
    kernel = pytest.importorskip("sparsetrain.kernels.relu_density")
    x = sample(shape, layout, dtype, "cuda" if torch.cuda.is_available() else "cpu")
    check(kernel.relu_density(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_number(dtype, device):
    x = torch.arange(-(2**15), 2**15, device=device).to(torch.int16).view(dtype).view(16, -1)
    check(relu_density(x), x)


def test_worked_by_hand(device):
    x = torch.tensor([[[1.0, -1.0], [0.0, -0.0]], [[2.0, 3.0], [torch.nan, 4.0]]], device=device)
    y, count = relu_density(x)
    assert y.nan_to_num(9.0).tolist() == [[[1.0, 0.0], [0.0, 0.0]], [[2.0, 3.0], [9.0, 4.0]]]
    assert count.tolist() == [3, 2]
    assert not y.signbit().any()


def test_count_is_that_of_y(device):
    y, count = relu_density(torch.randn(9, 5, 7, device=device))
    assert torch.equal(count, y.count_nonzero(dim=(0, 2)))


def test_strided_input(device):
    x = torch.randn(5, 8, 6, device=device)
    for view in (x.transpose(0, 2), x[:, ::2], x[:, :, 1:]):
        y, count = relu_density(view)
        wanted, counts = relu_density_reference(view)
        assert torch.equal(y, wanted)
        assert torch.equal(count, counts)


@pytest.mark.parametrize(("shape", "layout"), [((33, 48, 15, 17), f) for f in LAYOUTS[:2]], ids=str)
def test_threads_agree(shape, layout):
    x = torch.randn(shape).contiguous(memory_format=layout)
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        check(relu_density(x), x)
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", LAYOUTS[:2], ids=str)
def test_gradient(layout, device):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, device=device).contiguous(memory_format=layout)
    x.requires_grad_()
    torch.autograd.gradcheck(lambda x: relu_density(x)[0], x)
    y, count = relu_density(x)
    assert not count.requires_grad
    assert [t.data_ptr() for t in y.grad_fn.saved_tensors] == [y.data_ptr()]


def test_gradient_at_zero_and_nan_is_that_of_relu(device):
    x = torch.tensor([[0.0, -0.0, torch.nan, torch.inf, -1.0]], device=device, requires_grad=True)
    mine, wanted = (
        torch.autograd.grad(f(x).sum(), x)[0] for f in (lambda x: relu_density(x)[0], torch.relu)
    )
    assert torch.equal(mine, wanted)


def test_compiles(device):
    def loss(x):
        y, count = relu_density(x)
        return (y.sum(dim=(0, 2)) * count).sum()

    x = torch.randn(3, 4, 5, device=device, requires_grad=True)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    mine, wanted = (torch.autograd.grad(f(x), x)[0] for f in (compiled, loss))
    assert torch.equal(mine, wanted)


def test_no_channel_axis():
    with pytest.raises(
        ValueError, match=r"relu_density: x must be \[N, C, ...\], got shape \(3,\)"
    ):
        relu_density(torch.ones(3))


def test_bad_dtype():
    with pytest.raises(TypeError, match="x must be fp32, fp64, bf16 or fp16, got torch.int64"):
        relu_density(torch.ones(3, 3, dtype=torch.int64))


@pytest.mark.parametrize("layout", LAYOUTS[:2], ids=str)
def test_registration(layout, device):
    x = torch.randn(2, 3, 4, 5, device=device).contiguous(memory_format=layout).requires_grad_()
    torch.library.opcheck(torch.ops.sparsetrain.relu_density.default, (x,))
