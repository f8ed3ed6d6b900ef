"""topk_mask and its plan against a stable sort, for whatever hypothesis thinks of."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsetrain.ops import TopkMask, bits_of, mask_of, topk_mask, topk_mask_reference
from sparsetrain.ops.dtypes import DTYPES
from sparsetrain.ops.topk_checks import SCORES

EXAMPLES = settings(max_examples=120)
FACTORS = {"alpha": 0.3, "beta": 1.7, "gamma": 0.1}
TILE = 8192  # kTile in csrc/segments.h

shapes = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 70)),
        st.tuples(st.integers(0, 9), st.integers(1, 40)),
        st.sampled_from([(TILE,), (TILE - 1,), (TILE + 1,), (3 * TILE + 5,)]),
    ),
    min_size=1,
    max_size=6,
)


@st.composite
def problems(draw):
    """Weights and gradients of one random kind, with what to select from them."""
    sizes = draw(shapes)
    dtypes = draw(st.sampled_from([(d,) for d in DTYPES] + [DTYPES]))
    levels = draw(st.sampled_from([0, 1, 2, 5, 300]))  # distinct values; 0: continuous
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def numbers(i, size):
        x = torch.randn(size, generator=random)
        x = (x * levels).round().clamp(-levels, levels) if levels else x.mul(3).exp()
        return x.to(dtypes[i % len(dtypes)])

    weights = [numbers(i, size) for i, size in enumerate(sizes)]
    grads = [numbers(i, size) for i, size in enumerate(sizes)]
    within = None
    if draw(st.booleans()):
        within = [torch.rand(size, generator=random) < 0.5 for size in sizes]
    score = draw(st.sampled_from(SCORES))
    return weights, grads, {"score": score, "within": within, **FACTORS}


def ks(weights, within, shares):
    """The numbers to keep that shares of all candidates are."""
    most = sum(int(m.sum()) for m in within) if within else sum(w.numel() for w in weights)
    return [round(share * most) for share in shares]


def same(masks, wanted):
    return len(masks) == len(wanted) and all(map(torch.equal, masks, wanted))


shares = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=3)


@given(problems(), shares, st.sampled_from([1, 2]))
@EXAMPLES
def test_masks_are_those_of_a_stable_sort(problem, shares, threads):
    weights, grads, how = problem
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for k in ks(weights, how["within"], shares):
            wanted = topk_mask_reference(weights, grads, k=k, **how)
            assert same(topk_mask(weights, grads, k=k, **how), wanted)
    finally:
        torch.set_num_threads(before)


@given(problems(), shares, st.booleans(), st.booleans())
@EXAMPLES
def test_a_plan_finds_the_same_while_weights_and_k_move(problem, shares, bits, radix):
    weights, grads, how = problem
    plan = TopkMask(weights, bits=bits, **how)
    plan._radix = radix
    for k in ks(weights, how["within"], shares):
        for w in weights:
            w.mul_(1.01)
        wanted = topk_mask_reference(weights, grads, k=k, **how)
        assert same(plan(grads, k), [bits_of(m) for m in wanted] if bits else wanted)


@given(problems(), shares, st.booleans())
@EXAMPLES
def test_each_layer_alone(problem, shares, bits):
    weights, grads, how = problem
    plan = TopkMask(weights, bits=bits, per_layer=True, **how)
    within = how.pop("within") or [torch.ones_like(w, dtype=torch.bool) for w in weights]
    for share in shares:
        k = [ks([w], [m], [share])[0] for w, m in zip(weights, within, strict=True)]
        wanted = [
            topk_mask_reference([w], [g], k=n, within=[m], **how)[0]
            for w, g, n, m in zip(weights, grads, k, within, strict=True)
        ]
        assert same(plan(grads, k), [bits_of(m) for m in wanted] if bits else wanted)


@given(st.lists(st.integers(0, 9), max_size=3), st.integers(0, 2**31))
@EXAMPLES
def test_bits_and_back(shape, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(mask_of(bits_of(mask), mask.shape), mask)
