import pytest
import torch

from sparsetrain.ops import channel_scores, channel_scores_reference
from sparsetrain.ops.channel_scores import KINDS
from sparsetrain.ops.nm_mask import DTYPES

SHAPES = [(0, 3), (3, 0), (1, 1), (7, 65), (63, 65), (5, 7, 3, 3), (130, 700), (2, 3, 1, 1, 2)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
CASES = [(s, f) for s in SHAPES for f in LAYOUTS if f is LAYOUTS[0] or len(s) == 4]
ONE_ROUNDING = 2**-23  # fp64 sums in two orders, rounded to fp32


def sample(shape, layout, dtype, device):
    pair = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    return [t.contiguous(memory_format=layout) for t in pair]


def check(found, wanted):
    for mine, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, reference, rtol=ONE_ROUNDING, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=str)
def test_equals_reference(shape, layout, dtype, kind, device):
    weight, grad = sample(shape, layout, dtype, device)
    found = channel_scores(weight, grad, kind)
    check(found, channel_scores_reference(weight, grad, kind))


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=str)
def test_triton_equals_reference(shape, layout, dtype, kind):
    kernel = pytest.importorskip("sparsetrain.kernels.channel_scores")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight, grad = sample(shape, layout, dtype, device)
    found = kernel.channel_scores(weight, grad if kind >= 2 else None, kind)
    check(found, channel_scores_reference(weight, grad, KINDS[kind]))


def test_worked_by_hand(device):
    weight = torch.tensor([[1.0, -2.0], [3.0, 0.5]], device=device)
    grad = torch.tensor([[2.0, 1.0], [-1.0, 4.0]], device=device)
    worked = {
        "magnitude": ([3.0, 3.5], [4.0, 2.5]),
        "square": ([5.0, 9.25], [10.0, 4.25]),
        "snip": ([4.0, 5.0], [5.0, 4.0]),
        "snip_square": ([8.0, 13.0], [13.0, 8.0]),
    }
    for kind, (outputs, inputs) in worked.items():
        found = channel_scores(weight, grad, kind)
        assert [t.tolist() for t in found] == [outputs, inputs]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_threads_agree_to_the_bit(layout):
    weight, grad = sample((150, 97, 3, 3), layout, torch.float32, "cpu")
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(channel_scores(weight, grad, "snip"))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_strided_input(device):
    weight = torch.randn(6, 5, 4, device=device)
    for view in (weight.transpose(0, 1), weight[::2, 1:], weight[:, :, 1]):
        grad = view.flip(0)
        found = channel_scores(view, grad, "snip")
        check(found, channel_scores_reference(view, grad, "snip"))


W = torch.randn(2, 3)
BAD = [
    ({"kind": "l1"}, ValueError, "kind must be one of magnitude, .*, got 'l1'"),
    ({"weight": W[0]}, ValueError, r"weight must be \[O, I, ...\], got shape \(3,\)"),
    ({"weight": W.int()}, TypeError, "weight must be fp32, .*, got torch.int32"),
    ({"kind": "snip"}, ValueError, "kind 'snip' needs grad, got None"),
    ({"kind": "snip", "grad": W.t()}, ValueError, r"grad is \(3, 2\) on cpu, weight is \(2, 3\)"),
    ({"kind": "snip", "grad": W.half()}, TypeError, "grad is torch.float16, weight is"),
]


@pytest.mark.parametrize(("how", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input(how, error, message):
    with pytest.raises(error, match=f"channel_scores: {message}"):
        channel_scores(**{"weight": W, **how})


def test_registration(device):
    weight, grad = sample((3, 4, 2, 2), torch.channels_last, torch.float32, device)
    torch.library.opcheck(torch.ops.sparsetrain.channel_scores.default, (weight, grad, 2))
