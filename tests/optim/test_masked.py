"""sparsetrain.optim against torch.optim: steps, state, hooks, and what happens around them."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

import sparsetrain
from sparsetrain.optim import SGD, Adam, AdamW

TORCH = {SGD: torch.optim.SGD, Adam: torch.optim.Adam, AdamW: torch.optim.AdamW}
SGD_OPTIONS = [
    {"momentum": momentum, "nesterov": nesterov, "weight_decay": decay, "maximize": maximize}
    for momentum, nesterov, decay, maximize in itertools.product(
        (0.0, 0.9), (False, True), (0.0, 0.1), (False, True)
    )
    if momentum or not nesterov
] + [{"momentum": 0.9, "dampening": 0.3}]
ADAM_OPTIONS = [
    {"amsgrad": amsgrad, "weight_decay": decay, "maximize": maximize}
    for amsgrad, decay, maximize in itertools.product((False, True), (0.0, 0.1), (False, True))
]
CASES = [
    *((SGD, options) for options in SGD_OPTIONS),
    *((kind, options) for kind in (Adam, AdamW) for options in ADAM_OPTIONS),
]
MOMENTUM = {SGD: {"momentum": 0.9}, Adam: {}, AdamW: {}}
KINDS = pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def network(layout=torch.channels_last):
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(80, 7)).to(memory_format=layout)


def some_masks(model):
    return {name: torch.rand_like(p) < 0.5 for name, p in model.named_parameters() if p.dim() > 1}


def backward(model, optimizer, x=X):
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    return loss


def by_size(model, graph):
    weights = {g.name: model.get_parameter(g.members[0].tensor) for g in graph.free}
    return {name: w.detach().abs().flatten(1).sum(1) for name, w in weights.items()}


def groups(model):
    first, *rest = model.parameters()
    return [{"params": [first], "lr": 0.01}, {"params": rest}]


def mask_(model, masks):
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).masked_fill_(~mask, 0)


def mask_state_(optimizer, model, masks):
    for name, mask in masks.items():
        for t in optimizer.state[model.get_parameter(name)].values():
            if t.shape == mask.shape:
                t.masked_fill_(~mask, 0)


def assert_same(model, other):
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def give_gradients(model, other, seed):
    """The same gradients to both."""
    generator = torch.Generator().manual_seed(seed)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
        q.grad = p.grad.clone()


@pytest.mark.parametrize("state", [None, "zero", "keep"])
@pytest.mark.parametrize("how", ["fused", "foreach"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_is_torch_step_then_masking(kind, options, how, state):
    model, other = network(), network()
    mine = kind(groups(model), lr=0.05, masked_state=state or "zero", **options)
    plain = TORCH[kind](groups(other), lr=0.05, **options, **{how: True})
    masks = {} if state is None else some_masks(model)
    mine.set_masks(model, masks)
    mask_(other, masks)
    for step in range(5):
        give_gradients(model, other, seed=step)
        mine.step()
        plain.step()
        mask_(other, masks)
        if state == "zero":
            mask_state_(plain, other, masks)
        for name, mask in masks.items():
            assert (model.get_parameter(name)[~mask] == 0).all()
    assert_same(model, other)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.state[p], plain.state[q])


@KINDS
def test_state_dict_loads_into_torch_and_back(kind):
    model, other = network(), network()
    mine, plain = kind(model.parameters(), 0.05, **MOMENTUM[kind]), None
    for _ in range(2):
        backward(model, mine)
        mine.step()
    for turn in range(2):
        other.load_state_dict(model.state_dict())
        plain = TORCH[kind](other.parameters(), 0.01)
        plain.load_state_dict(copy.deepcopy(mine.state_dict()))  # else it is shared
        assert plain.param_groups[0]["lr"] == 0.05
        for _ in range(2):
            backward(model, mine)
            backward(other, plain)
            mine.step()
            plain.step()
        assert_same(model, other)
        mine = kind(model.parameters(), 0.01)
        model.load_state_dict(other.state_dict())
        mine.load_state_dict(copy.deepcopy(plain.state_dict()))
        if kind is not SGD:
            assert mine.state[model[0].weight]["step"].item() == 4 + 2 * turn


@KINDS
def test_state_of_torch_without_fused_loads(kind):
    model, other = network(), network()
    plain = TORCH[kind](other.parameters(), 0.05, foreach=True, **MOMENTUM[kind])
    backward(other, plain)
    plain.step()
    model.load_state_dict(other.state_dict())
    mine = kind(model.parameters())
    mine.load_state_dict(copy.deepcopy(plain.state_dict()))
    for each, optimizer in ((model, mine), (other, plain)):
        backward(each, optimizer)
        optimizer.step()
    assert_same(model, other)


def test_closures_hooks_and_schedulers():
    model = network()
    optimizer, seen = SGD(model.parameters(), 0.5, 0.9), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    loss = optimizer.step(lambda: backward(model, optimizer))
    scheduler.step()
    assert loss.requires_grad
    assert seen == ["before", "after"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@KINDS
def test_grad_scaler(kind):
    model, other = network(), network()
    mine, plain = kind(model.parameters(), 0.05), TORCH[kind](other.parameters(), 0.05, fused=True)
    masks = some_masks(model)
    mine.set_masks(model, masks)
    mask_(other, masks)
    for each, optimizer in ((model, mine), (other, plain)):
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for turn in range(4):
            optimizer.zero_grad()
            scaler.scale(each(X).square().mean()).backward()
            if turn % 2 == 0:
                each[0].weight.grad[0] = torch.inf
            before = [t.clone() for t in (*each.parameters(), *each.buffers())]
            scaler.step(optimizer)
            if turn % 2 == 0:
                after = [*each.parameters(), *each.buffers()]
                assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
            scaler.update()
            if each is other:
                mask_(other, masks)
                mask_state_(plain, other, masks)
    assert_same(model, other)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.state[p], plain.state[q])


def moves(model, optimizer, masks):
    """What may happen between two steps, each but the first."""
    weight, bias = model[0].weight, model[-1].bias
    state = optimizer.state[weight]

    def replace(data, make):
        for name, t in state.items():
            if t.dim():
                state[name] = make(t)
        weight.data = data

    return (
        lambda: masks["0.weight"].numpy().fill(False),
        lambda: replace(weight.data, torch.clone),
        lambda: replace(weight.data.clone(), lambda t: t),
        lambda: setattr(bias, "grad", None),
        lambda: setattr(bias, "data", bias.data.clone()),
        lambda: setattr(weight, "grad", weight.grad.contiguous()),
        lambda: optimizer.param_groups[0].update(lr=0.5),
        lambda: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())),
        lambda: setattr(masks["0.weight"], "data", masks["0.weight"].data.logical_not()),
    )


@KINDS
@pytest.mark.parametrize("which", range(9))
def test_what_moves_between_steps_is_followed(kind, which):
    model, other = network(), network()
    mine = kind(model.parameters(), 0.05, **MOMENTUM[kind])
    plain = TORCH[kind](other.parameters(), 0.05, **MOMENTUM[kind])
    masks = some_masks(model)
    mine.set_masks(model, masks)
    mask_(other, masks)
    for step in range(6):
        give_gradients(model, other, seed=step)
        if step == 3:
            for each, optimizer in ((model, mine), (other, plain)):
                held = masks if each is model else {"0.weight": masks["0.weight"].clone()}
                moves(each, optimizer, held)[which]()
        mine.step()
        plain.step()
        mask_(other, masks)
        mask_state_(plain, other, masks)
    assert_same(model, other)


@KINDS
@pytest.mark.parametrize("passed", [True, False])
def test_survives_removal_of_channels(kind, passed):
    model, other = network(), network()
    mine = kind(model.parameters(), 0.05, **MOMENTUM[kind])
    plain = TORCH[kind](other.parameters(), 0.05, **MOMENTUM[kind])
    masks = some_masks(model)
    mine.set_masks(model, masks)
    mask_(other, masks)
    theirs = {name: mask.clone() for name, mask in masks.items()}
    for each, optimizer, held in ((model, mine, masks), (other, plain, theirs)):
        for turn in range(6):
            if turn == 3:
                removal = sparsetrain.plan(each, X, by_size, channels=0.5, round_to=1)
                keep = held if passed or each is other else {}
                removal.apply(optimizer=optimizer, masks=keep)
            backward(each, optimizer)
            optimizer.step()
            if each is other:
                mask_(other, theirs)
                mask_state_(plain, other, theirs)
    assert model[0].weight.shape[0] < 8
    assert_same(model, other)


@KINDS
def test_model_that_changes_its_memory_format(kind):
    model, other = network(torch.contiguous_format), network(torch.contiguous_format)
    masks = some_masks(model)
    mine, plain = kind(model.parameters(), 0.05), TORCH[kind](other.parameters(), 0.05)
    mine.set_masks(model, masks)
    mask_(other, masks)
    for turn in range(4):
        if turn == 2:
            model.to(memory_format=torch.channels_last)
        for each, optimizer in ((model, mine), (other, plain)):
            backward(each, optimizer)
            optimizer.step()
        mask_(other, masks)
        mask_state_(plain, other, masks)
    assert_same(model, other)
    assert masks["0.weight"].stride() == model[0].weight.stride()


def test_mixed_dtypes_and_gaps_in_one_group():
    big = torch.randn(6, 8)
    each = [[nn.Parameter(torch.randn(70).to(d)) for d in (torch.float64, torch.bfloat16)]]
    each[0].append(nn.Parameter(big[:, ::2]))
    each.append([nn.Parameter(p.detach().clone()) for p in each[0]])
    for parameters, make in zip(each, (SGD, torch.optim.SGD), strict=True):
        optimizer = make(parameters, 0.1, 0.9)
        for step in range(3):
            for p in parameters:
                p.grad = torch.full_like(p, step + 0.5)
            optimizer.step()
    torch.testing.assert_close(each[0], each[1], rtol=2e-2, atol=1e-2)


def test_parameters_without_a_gradient_stay_masked():
    model = network()
    optimizer, masks = SGD(model.parameters(), 0.1), some_masks(model)
    optimizer.set_masks(model, masks)
    before = model[0].weight.detach().clone()
    backward(model, optimizer)
    model[0].weight.grad = None
    masks["0.weight"][0] = False
    optimizer.step()
    assert torch.equal(model[0].weight, before * masks["0.weight"])
    assert (model[0].weight[0] == 0).all()


@pytest.mark.parametrize("state", ["zero", "keep"])
def test_set_masks_clears_at_once(state):
    model = network()
    optimizer = SGD(model.parameters(), 0.1, 0.9, masked_state=state)
    backward(model, optimizer)
    optimizer.step()
    masks = some_masks(model)
    optimizer.set_masks(model, masks)
    weight, pruned = model[0].weight, ~masks["0.weight"]
    assert (weight[pruned] == 0).all()
    assert (weight.grad[pruned] == 0).all()
    assert (optimizer.state[weight]["momentum_buffer"][pruned] == 0).all() == (state == "zero")
    optimizer.set_masks(model, {})
    assert optimizer.mask_of(weight) is None


@KINDS
def test_copies_keep_masks(kind):
    model = network()
    optimizer = kind(model.parameters(), 0.1, masked_state="keep")
    optimizer.set_masks(model, some_masks(model))
    for pair in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        other, copied = pair
        assert copied.masked_state == "keep"
        assert torch.equal(copied.mask_of(other[0].weight), optimizer.mask_of(model[0].weight))
        backward(other, copied)
        copied.step()
        assert (other[0].weight[~optimizer.mask_of(model[0].weight)] == 0).all()


def test_many_tensors():
    each = [[nn.Parameter(torch.ones(i % 7)) for i in range(300)] for _ in range(2)]
    for parameters, make in zip(each, (AdamW, torch.optim.AdamW), strict=True):
        for p in parameters:
            p.grad = torch.arange(p.numel()) + 0.5
        make(parameters, 0.1).step()
    torch.testing.assert_close(each[0], each[1])


def test_bad_masks():
    model, other = network(), network()
    optimizer = SGD(model.parameters(), 0.1)
    yes = torch.ones(8, 3, 3, 3, dtype=torch.bool)
    for masks, kind, message in (
        ({"0.wieght": yes}, ValueError, "no parameter to mask is called '0.wieght'; did you mean"),
        ({"0.weight": yes[:2]}, ValueError, r"SGD: the mask of 0.weight is \(2, 3, 3, 3\) on cpu"),
        (
            {"0.weight": yes.float()},
            TypeError,
            "SGD: the mask of 0.weight must be bool, got",
        ),
    ):
        with pytest.raises(kind, match=message):
            optimizer.set_masks(model, masks)
    with pytest.raises(ValueError, match="none of the masked parameters is this optimizer's"):
        optimizer.set_masks(other, {"0.weight": yes})


def test_a_mask_that_did_not_shrink_is_an_error():
    weight = nn.Parameter(torch.ones(4, 2))
    model = nn.ParameterDict({"w": weight})
    optimizer = SGD(model.parameters(), 0.1)
    optimizer.set_masks(model, {"w": torch.ones(4, 2, dtype=torch.bool)})
    weight.data = torch.ones(2, 2)
    weight.grad = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"masks 0 is \(4, 2\) on cpu, its weight is \(2, 2\)"):
        optimizer.step()


@KINDS
def test_unsupported(kind):
    p = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(ValueError, match="masked_state is zero or keep, got 'clear'"):
        kind([p], masked_state="clear")
    with pytest.raises(ValueError, match="differentiable=True is not supported; use torch.optim"):
        kind([p], differentiable=True)
    with pytest.raises(TypeError, match="parameters must be fp32, fp64, bf16 or fp16, got torch.c"):
        kind([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    optimizer = kind([p])
    p.grad = torch.ones(3, 3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse gradients are not supported"):
        optimizer.step()
