import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparsetrain.nn import Blocked, SparseConv2d, SparseLinear, dense_gradient

CONVOLUTIONS = {  # of 8 channels: kernel, stride, padding, dilation, groups
    "3x3": (3, 1, 1, 1, 1),
    "1x1": (1, 1, 0, 1, 1),
    "1x1 stride": (1, 2, 0, 1, 1),
    "5x5": (5, 1, 2, 1, 1),
    "7x7 stride": (7, 2, 3, 1, 1),
    "3x3 stride": (3, 2, 1, 1, 2),
    "uneven": ((1, 3), (2, 1), (0, 2), (1, 2), 1),
    "dilated": (3, 1, 2, 2, 1),
    "grouped": (3, 1, 1, 1, 4),
    "depthwise": (3, 1, 1, 1, 8),
    "same": (3, 1, "same", 2, 1),
    "valid": (3, 1, "valid", 1, 1),
}
pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.parametrize("output", ["dense", "blocked"])
@pytest.mark.parametrize("v", [1, 4])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_equals_dense(name, v, output, pruned, agrees):
    kernel, stride, padding, dilation, groups = CONVOLUTIONS[name]
    outputs = 8 if groups > 2 else 12
    if v == 4 and outputs // groups % v:
        v = 1
    dense, sparse = pruned(nn.Conv2d(8, outputs, kernel, stride, padding, dilation, groups), v)
    sparse.output = output
    for batch, rows, columns in ((1, 9, 7), (6, 8, 8), (32, 3, 4)):
        if rows > 3 or "7x7" not in name:
            agrees(dense, sparse, torch.randn(batch, 8, rows, columns))


@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)),
    kernel=pair,
    stride=pair,
    padding=pair,
    channels=st.tuples(st.integers(1, 5), st.integers(1, 19)),
    v=st.sampled_from([1, 4, 8, 16]),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_any_convolution(sizes, kernel, stride, padding, channels, v, density, pruned, agrees):
    batch, rows, columns = sizes
    assume(rows + 2 * padding[0] >= kernel[0] and columns + 2 * padding[1] >= kernel[1])
    layer = nn.Conv2d(*channels, kernel, stride, padding)
    agrees(*pruned(layer, v, density), torch.randn(batch, channels[0], rows, columns))


@settings(max_examples=30)
@given(
    rows=st.integers(0, 130),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    v=st.sampled_from([1, 4, 8, 16]),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_any_linear(rows, inputs, outputs, v, density, pruned, agrees):
    agrees(*pruned(nn.Linear(inputs, outputs), v, density), torch.randn(rows, inputs))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (2, 0, 5), (1, 1, 1, 5)])
def test_linear_takes_any_leading_axes(shape, pruned, agrees):
    agrees(*pruned(nn.Linear(5, 6)), torch.randn(shape))


@pytest.mark.parametrize("live", ["none", "one", "a row"])
def test_few_live_weights(live, agrees):
    mask = torch.zeros(6, 4, 3, 3, dtype=torch.bool)
    if live != "none":
        mask[2, 1, 0, 2] = True
    if live == "a row":
        mask[2] = True
    dense = nn.Conv2d(4, 6, 3, padding=1)
    with torch.no_grad():
        dense.weight.mul_(mask)
    sparse = SparseConv2d.from_dense(dense, mask)
    agrees(dense, sparse, torch.randn(4, 4, 5, 5))
    assert len(sparse.weight) == mask.sum()


def test_strides_of_the_input(pruned, agrees):
    dense, sparse = pruned(nn.Conv2d(3, 5, 3, padding=1))
    x = torch.randn(4, 3, 6, 7)
    agrees(dense, sparse, x.to(memory_format=torch.channels_last))
    agrees(dense, sparse, torch.randn(8, 3, 6, 14)[::2, :, :, ::2])
    last = sparse(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    agrees(*pruned(nn.Linear(6, 5)), torch.randn(6, 7).T)


def test_one_image_without_a_batch(pruned, agrees):
    agrees(*pruned(nn.Conv2d(3, 5, 3, padding=1)), torch.randn(3, 6, 6))


def test_same_padding_of_an_even_kernel(pruned, agrees):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own, of its dense layer
        agrees(*pruned(nn.Conv2d(3, 5, (2, 4), padding="same")), torch.randn(4, 3, 6, 7))


def test_inference_equals_training(pruned):
    for layer, x in (
        (nn.Conv2d(16, 24, 3, 2, 1), torch.randn(8, 16, 9, 9)),
        (nn.Linear(400, 9), torch.randn(70, 400)),
    ):
        _, sparse = pruned(layer)
        y = sparse(x)
        for _ in range(2):
            with torch.no_grad():
                assert torch.equal(sparse(x), y)


@pytest.mark.parametrize("v", [1, 4, 8, 16])
def test_few_rows_in_inference(v, pruned):
    dense, sparse = pruned(nn.Linear(23, 2 * v + v // 2 + 1), v)
    x = torch.randn(23, v).T
    images = Blocked.of(x[:1, :, None, None])
    with torch.no_grad():
        for rows in {1, v // 2, v}:
            torch.testing.assert_close(sparse(x[:rows]), dense(x[:rows]))
        torch.testing.assert_close(sparse(x[None, :1]), dense(x[None, :1]))
        torch.testing.assert_close(sparse(torch.flatten(images, 1)), dense(x[:1]))
        before = sparse(x[:1])
        sparse.weight.mul_(2)
        torch.testing.assert_close(sparse(x[:1]) - sparse.bias, 2 * (before - sparse.bias))
    assert sparse(x).requires_grad


def test_kernels_follow_input_and_pattern(pruned):
    dense, sparse = pruned(nn.Conv2d(4, 6, 3, padding=1))
    for shape in ((2, 4, 5, 5), (4, 4, 5, 5), (2, 4, 7, 5), (2, 4, 5, 5)):
        x = torch.randn(shape)
        for _ in range(2):
            torch.testing.assert_close(sparse(x), dense(x))
    sparse.index.copy_(torch.arange(len(sparse.index)))  # in place
    torch.testing.assert_close(sparse(x), sparse.to_dense()(x))
    sparse.index = sparse.index + 1
    torch.testing.assert_close(sparse(x), sparse.to_dense()(x))
    sparse.repack(torch.ones(6, 4, 3, 3, dtype=torch.bool))
    torch.testing.assert_close(sparse(x), sparse.to_dense()(x))


def test_inference_sees_new_weights(pruned):
    _, sparse = pruned(nn.Conv2d(512, 8, 3, padding=1, bias=False))
    x = torch.randn(2, 512, 4, 4)
    sparse.eval()
    with torch.no_grad():
        y = sparse(x)
        sparse.weight.mul_(2)
        assert torch.equal(sparse(x), 2 * y)
        sparse.weight.data.mul_(2)  # which no version tells
        assert torch.equal(sparse.eval()(x), 4 * y)


def test_double_goes_through_the_dense_layer(pruned):
    for layer, x in (
        (nn.Conv2d(2, 3, 3, 2, 1), torch.randn(2, 2, 4, 5)),
        (nn.Linear(5, 4), torch.randn(3, 5)),
    ):
        _, sparse = pruned(layer.double())
        x = x.double().requires_grad_()
        weight, bias = sparse.weight.detach(), sparse.bias.detach()

        def run(x, weight, bias, sparse=sparse):
            tensors = {"weight": weight, "bias": bias}
            return torch.func.functional_call(sparse, tensors, (x,))

        inputs = (x, weight.requires_grad_(), bias.requires_grad_())
        assert torch.autograd.gradcheck(run, inputs)


def test_half_module_is_dense(pruned):
    dense, sparse = pruned(nn.Linear(6, 5))
    x = torch.randn(3, 6).bfloat16()
    assert torch.equal(sparse.bfloat16()(x), dense.bfloat16()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_gradient_on_demand(dtype, pruned):
    dense, sparse = pruned(nn.Conv2d(3, 4, 3, 2, 1, groups=1).to(dtype))
    x = torch.randn(4, 3, 6, 6, dtype=dtype)
    dense(x).pow(2).sum().backward()
    sparse(x).pow(2).sum().backward()
    assert sparse.dense_grad is None
    with dense_gradient(nn.Sequential(sparse)):
        for _ in range(2):
            sparse(x).pow(2).sum().backward()
    torch.testing.assert_close(sparse.dense_grad, 2 * dense.weight.grad)
    sparse(x).sum().backward()
    torch.testing.assert_close(sparse.dense_grad, 2 * dense.weight.grad)
    with dense_gradient(sparse):
        assert sparse.dense_grad is None


def test_layers_hand_blocked_activations_on(pruned, agrees):
    """Through two layers, of which the first gives too small a halo for the second."""
    first, sparse_first = pruned(nn.Conv2d(3, 8, 3, padding=1))
    second, sparse_second = pruned(nn.Conv2d(8, 4, 5, padding=2))
    sparse_first.output = "blocked"
    both = nn.Sequential(sparse_first, nn.ReLU(), sparse_second)
    x = torch.randn(4, 3, 6, 6)
    y = both(x)
    expected = F.conv2d(first(x).relu(), second.weight, second.bias, padding=2)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(
        sparse_first.weight.grad, sparse_first.pattern.gather(first.weight.grad)
    )


def test_matrices_stay_blocked(pruned):
    dense, sparse = pruned(nn.Linear(12, 5))
    x = torch.randn(8, 3, 2, 2)
    images = Blocked.of(x, halo=(1, 1))
    sparse.output = "blocked"
    y = sparse(torch.flatten(images, 1))
    assert isinstance(y, Blocked)
    assert y.shape == (8, 5)
    torch.testing.assert_close(y.dense(), dense(x.flatten(1)))
    torch.testing.assert_close(sparse(images.dense().flatten(1)).dense(), dense(x.flatten(1)))


def test_bad_input(mask_of):
    conv, linear = nn.Conv2d(3, 4, 3), nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"mask must be \[4, 3, 3, 3\], got \[4, 3\]"):
        SparseConv2d.from_dense(conv, torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match="mask must be bool, got torch.float32"):
        SparseLinear.from_dense(linear, torch.ones(4, 3))
    with pytest.raises(ValueError, match="v=4 needs a mask whose groups of 4"):
        SparseLinear.from_dense(linear, torch.eye(4, 3, dtype=torch.bool), v=4)
    with pytest.raises(ValueError, match=r"v in \(1, 4, 8, 16\)"):
        SparseLinear.from_dense(linear, torch.ones(4, 3, dtype=torch.bool), v=2)
    circular = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
    with pytest.raises(ValueError, match="padding_mode must be 'zeros', got 'circular'"):
        SparseConv2d.from_dense(circular, torch.ones(4, 3, 3, 3, dtype=torch.bool))
    sparse = SparseConv2d.from_dense(conv, mask_of(conv.weight))
    with pytest.raises(ValueError, match=r"x must be \[N, 3, H, W\] .* got \[2, 4, 5, 5\]"):
        sparse(torch.randn(2, 4, 5, 5))
    with pytest.raises(ValueError, match=r"x must be \[..., 3\], got \[2, 4\]"):
        SparseLinear.from_dense(linear, mask_of(linear.weight))(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"kernel.*3.* is larger"):
        sparse(torch.randn(2, 3, 2, 5))
