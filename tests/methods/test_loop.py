"""The hooks that all methods share: how often they are called, what they leave, how a run ends."""

import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparsetrain as st
from sparsetrain import methods, optim
from sparsetrain.methods.loop import MANY

X, Y = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


def network():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def sgd(model, library=torch.optim, **options):
    return library.SGD(model.parameters(), 0.05, 0.9, **options)


def trained(method, steps, model=None, optimizer=None, clip=None, scaler=None):
    """Yields the gradient's norm in each step, as `clip_grad_norm_` finds it."""
    model = network() if model is None else model
    optimizer = sgd(model) if optimizer is None else optimizer
    method.start(model, optimizer, scaler=scaler)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(model(X), Y)
        (loss if scaler is None else scaler.scale(loss)).backward()
        method.after_backward()
        yield nn.utils.clip_grad_norm_(model.parameters(), clip or torch.inf)
        (optimizer if scaler is None else scaler).step(*[] if scaler is None else [optimizer])
        if scaler is not None:
            scaler.update()
        method.after_step()


ENDS = {
    "GMP": (lambda: methods.GMP(0.8, 100, 10), "the last update at step 80; 26.4%"),
    "ACDC": (lambda: methods.ACDC(0.8, 100, floor=0.1), "the last pruning at step 86; 80.0%"),
    "FGGP": (lambda: methods.FGGP(0.8, 100, 10), "the last update at step 80; 26.3%"),
    "SET": (lambda: methods.SET(0.8, 100, 10), "the last update of the masks at step 70; 80.0%"),
    "RigL": (lambda: methods.RigL(0.8, 100, 10), "the last update of the masks at step 70; 80.0%"),
    "GraNet": (lambda: methods.GraNet(0.8, 100, 10), "the last pruning at step 50; 64.6%"),
    "STR": (lambda: methods.STR(0.8, 100), "the masks were fixed at step 80; 0.0%"),
    "Magnitude": (lambda: methods.Magnitude(0.8, at=90), "the pruning at step 90; 0.0%"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_run_that_ends_before_its_target_says_what_it_reached(name):
    make, text = ENDS[name]
    method = make()
    for _ in trained(method, 12):
        pass
    asked = "of the weights are pruned, 80% were asked for"
    with pytest.warns(
        UserWarning, match=f"{name}: training ended at step 12, before {text} {asked}"
    ):
        method.finish()


@pytest.mark.parametrize("name", ENDS)
def test_a_run_that_reached_its_target_says_nothing(name):
    method = ENDS[name][0]()
    for _ in trained(method, 100):
        pass
    method.finish()


def test_hooks_in_the_inner_loop_of_accumulation_are_noticed_once():
    model = network()
    method, optimizer = methods.GMP(0.8, 100, interval=5), sgd(model)
    method.start(model, optimizer)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            for _ in range(4):
                cross_entropy(model(X), Y).backward()
                method.after_backward()
            optimizer.step()
            method.after_step()
    assert [str(w.message)[:73] for w in said] == [
        "GMP: after_backward was called 4 times without after_step in between; bot"
    ]
    assert said[0].filename == __file__


@pytest.mark.parametrize("called", ["after_backward", "after_step"])
def test_a_hook_that_is_never_called_is_noticed_while_training(called):
    model = network()
    method = methods.GMP(0.8, 100, interval=50)
    method.start(model, sgd(model))
    other = {"after_backward": "after_step", "after_step": "after_backward"}[called]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(MANY - 1):
        getattr(method, called)()
    with pytest.warns(UserWarning, match=f"{called} was called {MANY} times without {other} in"):
        getattr(method, called)()


def test_a_hook_that_is_never_called_is_noticed_in_the_end():
    method = methods.Random(0.5)
    method.start(model := network(), sgd(model))
    for _ in range(3):
        method.after_backward()
    with pytest.warns(UserWarning, match="after_backward was called 3 times without after_step"):
        method.finish()


def test_hooks_that_were_never_called_are_noticed_in_the_end():
    method = methods.GMP(0.8, 100, interval=5)
    method.start(model := network(), sgd(model))
    with pytest.warns(UserWarning, match="ended at step 0, .*; after_backward was called 0 times"):
        method.finish()


def test_a_method_that_steps_needs_the_optimizer():
    with pytest.raises(ValueError, match="GMP: start needs the optimizer that trains the model"):
        methods.GMP(0.8, 100, 10).start(network())


CLIPPED = {
    "magnitude": lambda: methods.Magnitude(0.9, allocation="uniform"),
    "gmp": lambda: methods.GMP(0.9, 20, 4, allocation="uniform"),
    "rigl": lambda: methods.RigL(0.8, 20, 4),
    "granet": lambda: methods.GraNet(0.8, 20, 4),
    "fggp": lambda: methods.FGGP(0.8, 20, 4, allocation="uniform"),
    "drive": lambda: methods.DRIVE(0.8, 2, rounds=3, interval=4, allocation="uniform"),
}


@pytest.mark.parametrize("library", [torch.optim, optim], ids=["torch", "ours"])
@pytest.mark.parametrize("name", CLIPPED)
def test_clipping_sees_the_gradients_of_what_is_left(name, library):
    method, model = CLIPPED[name](), network()
    for norm in trained(method, 12, model, sgd(model, library), clip=0.1):
        for parameter_name, parameter in model.named_parameters():
            mask = method.masks.get(parameter_name)
            if parameter.grad is not None and mask is not None:
                assert not parameter.grad[~mask].any()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        clipped = sum(float(g.square().sum()) for g in grads) ** 0.5
        assert clipped == pytest.approx(min(float(norm), 0.1), rel=1e-3)


def test_growth_still_sees_the_dense_gradients():
    method, model = methods.RigL(0.8, 20, 4, fraction=0.5), network()
    seen = []
    for _ in trained(method, 12, model):
        seen.append({n: m.clone() for n, m in method.masks.items()})
    assert any((seen[-1][n] & ~seen[0][n]).any() for n in seen[0])


def test_dense_and_sparse_execution_train_the_same_network_under_clipping():
    """A norm of all gradients would be many times that of the live ones, and scale them down."""
    ends = []
    for packed in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
        optimizer = sgd(model, optim)
        method = methods.Magnitude(0.9, allocation="uniform")
        method.start(model, optimizer)
        if packed:
            st.sparsify(model, method.masks, X, optimizer=optimizer, training=True, force="sparse")
        for _ in range(20):
            optimizer.zero_grad()
            (10 * cross_entropy(model(X), Y)).backward()
            method.after_backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            method.after_step()
        if packed:
            st.densify(model, optimizer)
        ends.append(model.state_dict())
    for name, dense in ends[0].items():
        torch.testing.assert_close(ends[1][name], dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", [torch.optim, optim], ids=["torch", "ours"])
@pytest.mark.parametrize("unscale", [True, False])
def test_an_update_without_gradients_passes_a_grad_scaler(library, unscale):
    model = network()
    method, optimizer = methods.RigL(0.8, 20, 2), sgd(model, library)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    method.start(model, optimizer, scaler=scaler)
    for _ in range(5):
        optimizer.zero_grad()
        scaler.scale(cross_entropy(model(X), Y)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        before = deepcopy(model.state_dict())
        masks = method.masks
        method.after_backward()
        scaler.step(optimizer)
        scaler.update()
        method.after_step()
        if method.masks is not masks:  # no step was taken: what stayed is what it was
            for name, mask in method.masks.items():
                stayed = mask & masks[name]
                assert torch.equal(model.state_dict()[name][stayed], before[name][stayed])


def test_our_optimizer_takes_a_step_in_which_the_scaler_found_no_gradient():
    model = network()
    optimizer, scaler = sgd(model, optim), torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(()))
    before = deepcopy(model.state_dict())
    scaler.step(optimizer)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_gradients_that_are_not_finite_name_the_scaler():
    makers = CLIPPED | {"str": lambda: methods.STR(0.8, 20, initial=-3.0)}
    for name, at in (("rigl", 4), ("granet", 4), ("fggp", 4), ("drive", 3), ("str", 1)):
        method, model = makers[name](), network()
        method.start(model, sgd(model))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        model[2].weight.grad[0, 0] = torch.inf
        with pytest.raises(ValueError, match=f"2.weight is not finite in step {at}; a GradScaler"):
            method.after_backward(at - 1)


@pytest.mark.parametrize("library", [torch.optim, optim], ids=["torch", "ours"])
def test_what_is_pruned_is_zero_also_where_it_was_not_finite(library):
    model = network()
    with torch.no_grad():
        model[0].weight[:, 0] = torch.tensor([torch.inf, torch.nan] * 20)
    method, optimizer = methods.Random(0.9, seed=3, allocation="uniform"), sgd(model, library)
    method.start(model, optimizer)
    gone = ~method.masks["0.weight"]
    model[0].weight.grad = torch.full((40, 8), torch.nan)
    method.after_backward()
    optimizer.step()
    method.after_step()
    assert gone[:, 0].any()
    assert (model[0].weight[gone] == 0).all()
