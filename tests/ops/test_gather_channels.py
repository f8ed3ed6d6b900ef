import pytest
import torch

from sparsetrain.ops import gather_channels, gather_channels_reference
from sparsetrain.ops.gather_channels import ALL

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.bool,
    torch.int64,
    torch.complex128,  # 16 bytes
]
SHAPES = [
    (7, 65),
    (63, 5),
    (65, 7, 3, 3),
    (8, 8, 1, 1),
    (5, 16, 4),
    (3, 4, 2, 3, 2),
    (40, 64, 3, 3),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last, torch.channels_last_3d]
CASES = [
    (shape, layout)
    for shape in SHAPES
    for layout in LAYOUTS
    if layout is torch.contiguous_format or len(shape) == 4 + LAYOUTS.index(layout) - 1
]


def tensors(shape, layout, device):
    """One tensor of each dtype."""
    x = torch.randint(0, 100, shape, device=device)
    made = [(x + i).remainder(99).to(dtype) for i, dtype in enumerate(DTYPES)]
    return [t.contiguous(memory_format=layout) for t in made]


def indices(size, device):
    """None, none, all, a sorted half with runs, and any order with repeats."""
    half = torch.rand(size, device=device).lt(0.7).nonzero().flatten()
    repeats = torch.randint(0, size, (2 * size,), device=device)
    return [None, half[:0], torch.arange(size, device=device), half, repeats]


def same(mine, wanted):
    for a, b in zip(mine, wanted, strict=True):
        assert a.dtype == b.dtype
        assert a.stride() == b.stride()
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout_shape", CASES, ids=str)
def test_equals_reference(layout_shape, device):
    shape, layout = layout_shape
    each = tensors(shape, layout, device)
    for rows in indices(shape[0], device):
        for cols in indices(shape[1], device):
            same(gather_channels(each, rows, cols), gather_channels_reference(each, rows, cols))


@pytest.mark.parametrize("size", [0, 1, 7, 63, 65])
def test_vectors(size, device):
    bias = [torch.randn(size, device=device), torch.arange(size, device=device)]
    for rows in indices(size, device) if size else [None]:
        same(gather_channels(bias, rows), gather_channels_reference(bias, rows))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3, 0, 1)], ids=str)
def test_empty(shape, device):
    each = [torch.ones(shape, device=device)]
    none = torch.zeros(0, dtype=torch.int64, device=device)
    same(gather_channels(each, none, none), gather_channels_reference(each, none, none))
    same(gather_channels(each), each)


def test_worked_by_hand(device):
    x = torch.tensor([[1, 2, 3], [4, 5, 6]], device=device)
    rows, cols = torch.tensor([1, 1], device=device), torch.tensor([2, 0], device=device)
    assert gather_channels([x], rows, cols)[0].tolist() == [[6, 4], [6, 4]]


def test_mixed_layouts_and_strides(device):
    x = torch.randn(8, 6, 3, 3, device=device)
    last = x.to(memory_format=torch.channels_last)
    turned = torch.randn(3, 6, 8, 3, device=device).transpose(0, 2)
    rows, cols = torch.tensor([5, 1], device=device), torch.tensor([0, 4, 5], device=device)
    each = [x, last, turned, x.expand(8, 6, 3, 3)[:, :, :1].expand(8, 6, 3, 3)]
    same(gather_channels(each, rows, cols), gather_channels_reference(each, rows, cols))


def test_strided_indices(device):
    x = torch.randn(6, 6, device=device)
    index = torch.arange(12, device=device).remainder(6)[::2]
    same(gather_channels([x], index, index), gather_channels_reference([x], index, index))


def test_each_tensor_has_its_own_indices(device):
    """As a removal has: layers of many shapes, some without rows or cols, dtypes mixed."""
    shapes = [(0,), (9,), (5, 0), (8, 6), (8, 6, 3, 3), (16, 8, 1, 1), (4, 3, 5), (1, 300)] * 20
    each = [
        torch.randint(0, 99, shape, device=device).to(DTYPES[i % len(DTYPES)])
        for i, shape in enumerate(shapes)
    ]
    each[4] = each[4].contiguous(memory_format=torch.channels_last)
    rows = [indices(t.shape[0], device)[i % 5] if t.numel() else None for i, t in enumerate(each)]
    cols = [
        indices(t.shape[1], device)[i % 4] if t.dim() > 1 and t.numel() else None
        for i, t in enumerate(each)
    ]
    same(gather_channels(each, rows, cols), gather_channels_reference(each, rows, cols))


def test_indices_that_share_memory(device):
    x, index = torch.randn(2, 6, 7, device=device), torch.tensor([4, 1, 5, 0], device=device)
    rows = [index[:2], index[:3]]
    same(gather_channels([*x], rows, rows), gather_channels_reference([*x], rows, rows))


def test_result_shares_no_memory(device):
    x = torch.randn(4, 5, device=device, requires_grad=True)
    (out,) = gather_channels([x])
    assert out.data_ptr() != x.data_ptr()
    assert not out.requires_grad


@pytest.mark.parametrize("layout", LAYOUTS[:2], ids=str)
def test_threads_agree(layout):
    each = [
        torch.randn(200, 150, 3, 3).contiguous(memory_format=layout),
        torch.randn(300, 170),
        torch.ones(200, 150, 3, 3),
    ]
    rows, cols = torch.arange(199, 0, -2), torch.arange(3, 150, 2)
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        same(gather_channels(each, rows, cols), gather_channels_reference(each, rows, cols))
    torch.set_num_threads(before)


X = torch.ones(4, 3)
BAD = [
    ([X, X.to("meta")], None, None, ValueError, "tensor 1 is on meta, tensor 0 on cpu"),
    ([X, X[0]], None, [0], ValueError, r"tensor 1 needs 2 axes or more, got shape \(3,\)"),
    ([X, X[0]], [3], None, ValueError, "rows has 3, axis 0 of tensor 1 has size 3"),
    ([X], None, [0, -1], ValueError, "cols has -1, axis 1 of tensor 0 has size 3"),
    ([X], [[0]], None, ValueError, r"rows must be 1-D, got shape \(1, 1\)"),
    ([X], [0.0], None, TypeError, "rows must be int64, got torch.float32"),
]


@pytest.mark.parametrize(("each", "rows", "cols", "error", "message"), BAD)
def test_bad_input(each, rows, cols, error, message):
    rows, cols = (None if i is None else torch.tensor(i) for i in (rows, cols))
    with pytest.raises(error, match=f"gather_channels: {message}"):
        gather_channels(each, rows, cols)


def test_index_on_another_device():
    with pytest.raises(ValueError, match="rows is on meta, the tensors are on cpu"):
        gather_channels([X], torch.zeros(1, dtype=torch.int64, device="meta"))


def test_a_list_of_indices_of_another_length():
    with pytest.raises(ValueError, match="gather_channels: 1 tensors, but 2 cols"):
        gather_channels([X], None, [None, None])


def test_no_tensors():
    assert gather_channels([]) == []


@pytest.mark.parametrize("layout", LAYOUTS[:2], ids=str)
def test_registration(layout, device):
    each = [*tensors((4, 3, 2, 2), layout, device), torch.ones(4, device=device)]
    index = [torch.tensor([3, 0, 0], device=device), torch.tensor([1], device=device)]
    rows, cols = [0] * len(each), [1] * (len(each) - 1) + [ALL]
    torch.library.opcheck(torch.ops.sparsetrain.gather_channels.default, (each, index, rows, cols))
