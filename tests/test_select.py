import pytest
import torch

import sparsetrain as st
from sparsetrain.ops import nm_mask_reference, nm_mask_transposable_reference, topk_mask
from sparsetrain.selection.select import SIGNED, best

SHAPES = {"conv": (7, 6, 3, 2), "linear": (9, 5), "empty": (0, 4), "deep": (4, 3, 2, 2, 2)}
GROUPED = [st.Vector(1), st.Vector(4), st.Vector(16), st.Block(2, 3), st.Block(1, 2), st.Channel()]


def scores(device, shapes=SHAPES):
    """Small whole numbers, so that sums are exact and tie often."""
    return {n: torch.randint(0, 5, s, device=device).float() for n, s in shapes.items()}


def groups_of(pattern, shape):
    """{group: its entries' indices}, groups in row-major order, by a loop over entries."""
    found = {}
    for place in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        o, i, *tap = place
        if isinstance(pattern, st.Channel):
            key = (o,)
        elif isinstance(pattern, st.Vector):
            key = (o // pattern.v, i, *tap)
        else:
            key = (o // pattern.r, i // pattern.c, *tap)
        found.setdefault(key, []).append(tuple(place))
    return dict(sorted(found.items()))


def by_loops(score, k, pattern):
    """What select must return, one group at a time."""
    ranked = [
        (-float(sum(s[p] for p in places)), t, g, name, places)
        for t, (name, s) in enumerate(score.items())
        for g, places in enumerate(groups_of(pattern, s.shape).values())
    ]
    keep = {name: torch.zeros(s.shape, dtype=torch.bool) for name, s in score.items()}
    for *_, name, places in sorted(ranked, key=lambda r: r[:3])[:k]:
        for place in places:
            keep[name][place] = True
    return keep, len(ranked)


@pytest.mark.parametrize("sparsity", [0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("pattern", GROUPED, ids=str)
def test_equals_loops_ragged_edges_and_ties(pattern, sparsity, device):
    score = scores(device)
    total = by_loops(score, 0, pattern)[1]
    k = round((1 - sparsity) * total)
    wanted, _ = by_loops(score, k, pattern)
    for found in (
        st.select(score, sparsity, pattern=pattern),
        st.select(score, k=k, pattern=pattern),
    ):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[n].cpu(), wanted[n]) for n in wanted)
        assert all(mask.is_contiguous() for mask in found.values())


def test_unstructured_is_topk_mask(device):
    score = {**scores(device), "bias": torch.rand(11, device=device)}
    found = st.select(score, sparsity=0.9)
    k = round(0.1 * sum(s.numel() for s in score.values()))
    assert all(map(torch.equal, found.values(), topk_mask(list(score.values()), k=k)))


@pytest.mark.parametrize("pattern", [st.Unstructured(), *GROUPED], ids=str)
def test_layer_scope_is_each_tensor_alone(pattern, device):
    score = scores(device)
    found = st.select(score, 0.5, pattern=pattern, scope="layer")
    for name, s in score.items():
        assert torch.equal(found[name], st.select(s, 0.5, pattern=pattern))


def test_last_group_is_smaller_and_its_score_is_summed(device):
    score = torch.tensor([[1.0], [1.0], [1.0], [1.0], [3.5]], device=device)
    assert st.select(score, k=1, pattern=st.Vector(2)).flatten().tolist() == [False] * 4 + [True]
    score[4] = 2.0  # a tie: the lower group
    keep = st.select(score, k=1, pattern=st.Vector(2)).flatten().tolist()
    assert keep == [True, True, False, False, False]


def test_vector_shares_inputs(device):
    keep = st.select(torch.rand(16, 8, 3, 3, device=device), sparsity=0.9, pattern=st.Vector(4))
    assert (keep.unflatten(0, (4, 4)).float().std(1) == 0).all()
    assert int(keep.sum()) == 4 * round(0.1 * 4 * 8 * 9)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4)])
def test_nm_goes_along_the_inputs(n, m, device):
    score = torch.rand(5, 16, 3, 2, device=device)
    keep = st.select(score, pattern=st.NM(n, m))
    wanted = nm_mask_reference(score.permute(0, 2, 3, 1), n, m).permute(0, 3, 1, 2)
    assert torch.equal(keep, wanted)
    assert keep.is_contiguous()


def test_transposable(device):
    score = torch.rand(8, 12, 3, 2, device=device)
    keep = st.select({"w": score}, pattern=st.NM(2, 4, transposable=True))["w"]
    wanted = nm_mask_transposable_reference(score.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
    assert torch.equal(keep, wanted)


def test_threads_agree():
    score = torch.randn(300, 200, 3, 3).abs()
    before = torch.get_num_threads()
    for pattern in GROUPED:
        masks = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            masks.append(st.select(score, 0.8, pattern=pattern))
        assert torch.equal(*masks)
    torch.set_num_threads(before)


S = torch.rand(6, 6)
BAD = [
    ({}, "need sparsity or k, got sparsity=None, k=None"),
    ({"sparsity": 0.5, "k": 3}, "need sparsity or k, got sparsity=0.5, k=3"),
    ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
    ({"sparsity": -0.1}, r"sparsity must be in \[0, 1\), got -0.1"),
    ({"k": 37}, "need 0 <= k <= 36, the number of groups, got k=37"),
    ({"k": -1}, "need 0 <= k <= 36, the number of groups, got k=-1"),
    ({"k": 3, "scope": "layer"}, "scope 'layer' needs sparsity, got k=3"),
    ({"k": 3, "scope": "all"}, "scope is one of global, layer, got 'all'"),
    ({"k": 3, "pattern": st.NM(2, 4)}, "keeps 2 of 4, so it takes no sparsity or k"),
    ({"pattern": st.NM(2, 4)}, "input axis of 'score' is 6, not a multiple of m=4"),
    (
        {"score": {"a": S[:, :4]}, "pattern": st.NM(2, 4, transposable=True)},
        "output axis of 'a' is 6, not a multiple of m=4",
    ),
    (
        {"score": {"bias": S[0]}, "k": 1, "pattern": st.Vector(2)},
        r"Vector\(v=2\) needs \[O, I, ...\], score of 'bias' has shape \(6,\)",
    ),
    ({"score": -S - 1, "k": 1}, "score of 'score' has 36 negative entries"),
    ({"score": S * torch.nan, "k": 1}, "score of 'score' has 36 NaN entries"),
]


@pytest.mark.parametrize(("how", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(how, message):
    with pytest.raises(ValueError, match=f"select: .*{message}"):
        st.select(**{"score": S, **how})


def test_bad_dtype():
    with pytest.raises(TypeError, match="score of 'score' must be floating, got torch.int64"):
        st.select(torch.ones(3, 3, dtype=torch.int64), 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.Vector(0), "Vector: need v >= 1, got v=0"),
        (lambda: st.Block(0, 2), "Block: need r >= 1 and c >= 1, got r=0, c=2"),
        (lambda: st.NM(3, 2), "NM: need 0 < n <= m <= 32, got n=3, m=2"),
        (lambda: st.NM(1, 4, transposable=True), "NM: transposable is for 2:4, got 1:4"),
    ],
)
def test_bad_pattern(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_signed_scores_keep_the_largest():
    scores = {"a": torch.tensor([[-3.0, 2.0], [0.0, -1.0]]), "b": torch.tensor([[2.0, -0.0]])}
    kept = best(scores, k=3, formula=SIGNED)
    assert kept["a"].tolist() == [[False, True], [True, False]]
    assert kept["b"].tolist() == [[True, False]]  # 0 and -0 are equal: the lower tensor wins
    kept = best(scores, k=3, formula=SIGNED, floor={"a": 1, "b": 2})
    assert [m.tolist() for m in kept.values()] == [[[False, True], [False, False]], [[True, True]]]
    kept = best(scores, k={"a": 3, "b": 0}, formula=SIGNED)
    assert kept["a"].tolist() == [[False, True], [True, True]]
    assert not kept["b"].any()


def test_signed_scores_of_a_group_add_up():
    score = {"w": torch.tensor([[5.0, -9.0], [-8.0, -9.0], [-4.0, -5.0], [3.0, 1.0]])}
    channels = best(score, k=2, formula=SIGNED, pattern=st.Channel())["w"]
    assert channels.tolist() == [[True] * 2, [False] * 2, [False] * 2, [True] * 2]  # -4 and 4
    vectors = best(score, k=2, formula=SIGNED, pattern=st.Vector(2))["w"]
    assert vectors.tolist() == [[True, False], [True, False], [True, False], [True, False]]
    of_two = best(score, k=0, formula=SIGNED, pattern=st.NM(1, 2))["w"]
    assert of_two.tolist() == [[True, False]] * 4


def test_signed_scores_with_nan_are_an_error():
    with pytest.raises(ValueError, match="select: score of 'w' has NaN"):
        best({"w": torch.tensor([1.0, torch.nan])}, k=1, formula=SIGNED)
