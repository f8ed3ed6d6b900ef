"""Ops called as torch.ops.sparsetrain.*, past the functions in Python: wrong calls are refused."""

import copy
import pickle

import pytest
import torch
from fuzz.sparse_recipes import RECIPES, Draw
from torch.utils._pytree import tree_leaves, tree_map_only

from sparsetrain.nn import SparseLinear
from sparsetrain.ops import Entries, masked_sgd, spmm, spmv

OPS = torch.ops.sparsetrain
X = torch.arange(6.0).view(1, 6, 1, 1, 1)
W = torch.ones(2, 3)
HUGE = 2**63 - 1


def int32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


def int64(*numbers):
    return torch.tensor(numbers)


def entries(offset, start=None):
    start = int32(0, 1, 2) if start is None else start
    return Entries(start, offset, 1, 1, 2, (1, 1), (6, 1, 1, 1))


def freed(t):
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


def test_entries_keep_what_they_were_made_of():
    start, offset = int32(0, 1, 2), int32(3, 5)
    made = entries(offset, start)
    offset.fill_(2**30)
    start.fill_(7)
    made.offset.fill_(-1)  # of a copy
    assert spmm(X, torch.ones(2, 1), made).flatten().tolist() == [3, 5]
    assert made.start.tolist() == [0, 1, 2]


def test_entries_of_strided_tensors():
    made = entries(int32(3, 9, 5, 9)[::2], int32(0, 9, 1, 9, 2, 9)[::2])
    assert spmm(X, torch.ones(2, 1), made).flatten().tolist() == [3, 5]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copy_of_entries_has_a_life_of_its_own(again):
    made = entries(int32(3, 5))
    other = again(made)
    del made
    assert spmm(X, torch.ones(2, 1), other).flatten().tolist() == [3, 5]


def test_a_token_that_is_stale_or_made_up():
    token = entries(int32(3, 5)).token.clone()  # the entries are gone
    for bad in (token, int64(1), torch.zeros(1, dtype=torch.int64)):
        with pytest.raises(RuntimeError, match="spmm: entries must be a token .* that lives"):
            OPS.spmm(X, torch.ones(2, 1), bad, None, None, False, [0, 0], [2, 1, 1])


def test_entries_that_read_nothing_are_none_of_a_matrix():
    nothing = Entries(int32(0, 1), int32(2**30), 1, 1, 1, (0, 0), (6, 1, 1, 1))
    with pytest.raises(ValueError, match=r"size \(1, 1\), got \(6, 1, 1, 1\) and \(0, 0\)"):
        spmv(torch.ones(1, 6), torch.ones(1, 1), nothing)
    assert (
        spmm(X, torch.ones(1, 1), nothing, (1, 1)).tolist() == torch.zeros(1, 1, 2, 2, 1).tolist()
    )


TABLE = torch.tensor([[0, 0, 0]])
STEP = ([False], [0.1, 0.9, 0.0, 0.0, False, False, False, None, None])


def sgd(w, g, v, masks):
    (first,), options = STEP
    OPS.masked_sgd(w, g, v, masks, first, *options)


CALLS = [
    (OPS.sort_entries, (int64(0), TABLE, TABLE, 2**62, 1, 1, 1), "v and width must be 1 to 2"),
    (OPS.sort_entries, (int64(0), TABLE, TABLE, 1, 1, 2**40, 2**40), "fewer than 2.31 together"),
    (OPS.sort_entries, (int64(0), TABLE[:, :2], TABLE, 1, 1, 1, 1), r"rows must be \[\*, 3\]"),
    (OPS.sort_entries, (int64(0), TABLE + HUGE, TABLE, 1, 1, 1, 1), "stay inside the matrix"),
    (OPS.sort_entries, (int64(-HUGE), TABLE, TABLE, 1, 1, 1, 1), "index must ascend"),
    (OPS.nm_mask, (W, 1, 0), "need 0 < n <= m <= 32, got n=1, m=0"),
    (OPS.nm_mask, (W.t(), 1, 2), r"score must be contiguous, got strides \[1, 3\]"),
    (OPS.nm_mask, (freed(W), 1, 3), "score needs 24 bytes of memory, its storage has 0"),
    (OPS.nm_mask, (W.to(torch.int64), 1, 3), "score must be Float or Double .*, got Long"),
    (OPS.relu_density, (torch.ones(3),), r"x needs 2 axes or more, got shape \[3\]"),
    (OPS.channel_scores, (W, None, 2), "kind 2 needs grad, got none"),
    (OPS.channel_scores, (W, torch.ones(3, 2), 2), r"grad must be \[2, 3\], got \[3, 2\]"),
    (
        OPS.gather_channels,
        ([W], [int64(2)], [0], [-1]),
        "rows has 2, axis 0",
    ),
    (OPS.gather_channels, ([W], [int64(-1)], [-1], [0]), "cols has -1, axis 1"),
    (OPS.gather_channels, ([W], [], [0], [-1]), "rows has 0, there are 0 indices"),
    (OPS.gather_channels, ([W], [], [], [-1]), "rows must be 1 in number, got 0"),
    (OPS.to_blocked, (torch.ones(2, 1, 1, 1), 3, [0, 0]), "lanes must be a power of two, got 3"),
    (OPS.to_blocked, (torch.ones(2, 1, 1, 1), 1, [0]), r"halo must be two numbers .* got \[0\]"),
    (OPS.with_halo, (X, [0, 0], [HUGE, 0]), "new_halo must be two numbers"),
    (OPS.from_blocked, (X, [1, 1], False), r"smaller than its halo \[1, 1\]"),
    (OPS.blocked_max_pool, (X, [0, 2, 2], [0, 1, 1], [0, 0], [0, 0]), r"must lie in \[0, 1\)"),
    (OPS.blocked_avg_pool, (X, [0, 1], [0, 1, 1], [0, 0], [0, 0]), "three numbers for each output"),
    (OPS.topk_mask, ([], [W], [], 1, 0, 1.0, 1.0, 1.0), "needs a weight, got none"),
    (OPS.topk_mask, ([W], [], [], 1, 1, 1.0, 1.0, 1.0), "grads must be 1 in number, got 0"),
    (OPS.topk_mask, ([W], [], [W], 1, 0, 1.0, 1.0, 1.0), "within 0 must be Bool, got Float"),
    (OPS.topk_mask, ([W], [], [], 1, 9, 1.0, 1.0, 1.0), "score must be 0, 1, 2 or 3, got 9"),
    (sgd, ([W], [W], [W[:1]], [None]), r"buffers 0 must be \[2, 3\], got \[1, 3\]"),
    (sgd, ([W], [W], [W], []), "masks must be 1 in number, got 0"),
    (sgd, ([W], [W], [W], [W]), "masks 0 must be Bool, got Float"),
    (sgd, ([W], [W.t().contiguous().t()], [W], [None]), "grads 0 must lie in memory as what"),
    (sgd, ([W], [W], [], [None]), "momentum 0.9 needs buffers, got none"),
]


@pytest.mark.parametrize(("op", "arguments", "message"), CALLS, ids=[m for *_, m in CALLS])
def test_wrong_calls(op, arguments, message):
    with pytest.raises(RuntimeError, match=message):
        op(*arguments)


TENSORS = [
    (name, i)
    for name in sorted(RECIPES)
    for i, argument in enumerate(getattr(OPS, name).default._schema.arguments)
    if isinstance(argument.type, torch.TensorType)
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("name", "place"), TENSORS)
def test_none_for_a_tensor(name, place, device):
    arguments = RECIPES[name](Draw(0))
    arguments[place] = None
    arguments = tree_map_only(torch.Tensor, lambda t: t.to(device), arguments)
    left = any(isinstance(item, torch.Tensor) for item in tree_leaves(arguments))
    theirs = "There were no tensor arguments"  # as torch says it
    kind, message = (TypeError, "must be a tensor, got None") if left else (RuntimeError, theirs)
    with pytest.raises(kind if device == "meta" else (TypeError, RuntimeError)) as refusal:
        getattr(OPS, name)(*arguments)
    if device == "meta":
        assert message in str(refusal.value)


def test_a_step_on_several_devices():
    meta = W.to("meta")
    for lists in (([W], [meta], [W], [None]), ([W, meta], [W, meta], [W, meta], [None] * 2)):
        with pytest.raises(ValueError, match="masked_sgd: tensors must be on one device, got cpu"):
            sgd(*lists)
    with pytest.raises(ValueError, match="masked_sgd: weight 1 is on meta, weight 0 is on cpu"):
        masked_sgd([W, meta], [W, meta], [], [None] * 2, lr=0.1)
    with pytest.raises(ValueError, match="topk_mask: tensors must be on one device"):
        OPS.topk_mask([W, meta], [], [], 1, 0, 1.0, 1.0, 1.0)


def test_an_expanded_weight_is_refused_before_anything_changes():
    first = torch.ones(3)
    weights = [first, torch.ones(1).expand(3)]
    with pytest.raises(ValueError, match="what is written must not be expanded"):
        masked_sgd(weights, [torch.ones(3)] * 2, [], [None] * 2, lr=0.1)
    assert first.tolist() == [1, 1, 1]


def test_scores_that_are_true_by_any_bit():
    """A bool may be any byte, as one that was seen as bool is."""
    within = torch.tensor([0, 2, 255, 1], dtype=torch.uint8).view(torch.bool)
    keep, _, candidates = OPS.topk_mask([torch.ones(4)], [], [within], 3, 0, 1.0, 1.0, 1.0)
    assert candidates.item() == 3
    assert keep[0].tolist() == [False, True, True, True]


def test_a_halo_around_nothing_is_zero():
    out = OPS.with_halo(torch.ones(1, 1, 2, 3, 1), [1, 1], [1, 0])
    assert torch.equal(out, torch.zeros(1, 1, 2, 1, 1))


def test_a_layer_and_numbers_that_are_none_of_its():
    layer = SparseLinear.from_dense(torch.nn.Linear(4, 4), torch.ones(4, 4, dtype=torch.bool))
    x = torch.ones(2, 4, 1, 1)
    for shape, geometry in (([4], [1] * 7), ([4, 4], [1] * 6), ([4, 4], [0] * 7)):
        with pytest.raises(ValueError, match="sparse_layer: "):
            OPS.sparse_layer(x, layer.weight, layer.index, None, shape, geometry)
    with pytest.raises(RuntimeError, match="index must ascend"):
        OPS.sparse_layer(x, layer.weight, layer.index + 99, None, [4, 4], [1, 1, 0, 0, 1, 1, 1])
