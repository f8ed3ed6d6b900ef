import pytest
import torch
from torch import nn

from sparsetrain import models
from sparsetrain.scores import ThreeSP
from sparsetrain.shrink import trace

X = torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 4
cross_entropy = nn.functional.cross_entropy


def network(name="vgg16"):
    width = 1.0 if name == "resnet20" else 0.125
    return models.build(name, classes=4, width=width).double()


def gated(model, module, before_norm):
    """dL/dc of gates c = 1 on a module's output channels, by putting them there."""
    gate = torch.ones(1, module.num_features, 1, 1, dtype=torch.float64, requires_grad=True)
    if before_norm:
        hook = module.register_forward_pre_hook(lambda m, args: (args[0] * gate,))
    else:
        hook = module.register_forward_hook(lambda m, args, out: out * gate)
    [gradient] = torch.autograd.grad(cross_entropy(model(X), Y), gate)
    hook.remove()
    return gradient.flatten().abs()


@pytest.mark.parametrize("training", [True, False])
def test_gate_is_the_gradient_of_a_real_gate_after_the_norm(training):
    model = network().train(training)
    found = ThreeSP(cross_entropy, (X, Y), per_flop="none", training=training)(
        model, trace(model, X)
    )
    wanted = gated(model, model.features[1], before_norm=False)
    torch.testing.assert_close(found["features.0"], wanted)


def test_gate_of_a_residual_stage_is_the_sum_over_its_norms():
    model = network("resnet20")
    stem = model.stages[0]
    norms = [model.stem[1], stem[0].bn2, stem[1].bn2, stem[2].bn2]
    gate = torch.ones(1, 16, 1, 1, dtype=torch.float64, requires_grad=True)
    hooks = [n.register_forward_hook(lambda m, a, out: out * gate) for n in norms]
    [gradient] = torch.autograd.grad(cross_entropy(model(X), Y), gate)
    for hook in hooks:
        hook.remove()
    found = ThreeSP(cross_entropy, (X, Y), per_flop="none")(model, trace(model, X))
    torch.testing.assert_close(found["stem.0"], gradient.flatten().abs())


def test_the_gradient_does_not_vanish_before_a_training_norm():
    """The trap: a gate before the norm has no gradient, since the norm undoes it; ours has."""
    model = network().train()
    before = gated(model, model.features[1], before_norm=True)
    ours = ThreeSP(cross_entropy, (X, Y), per_flop="none")(model, trace(model, X))["features.0"]
    assert before.max() < 1e-4 * ours.max()
    assert ours.min() > 0


def test_per_flop_divides_by_what_goes():
    model = network()
    graph = trace(model, X)
    plain = ThreeSP(cross_entropy, (X, Y), per_flop="none")(model, graph)
    for per_flop, consumers in (("removed", True), ("own", False)):
        found = ThreeSP(cross_entropy, (X, Y), per_flop=per_flop)(model, graph)
        for group in graph.free:
            cost = graph.channel_flops(group, consumers)
            torch.testing.assert_close(found[group.name] * cost, plain[group.name])


@pytest.mark.parametrize(("saliency", "power"), [("absolute", 1), ("square", 2)])
def test_own_weights_saliency(saliency, power):
    model = network()
    found = ThreeSP(cross_entropy, (X, Y), saliency, per_flop="none")(model, trace(model, X))
    cross_entropy(model(X), Y).backward()
    conv, norm = model.features[0], model.features[1]
    tensors = (conv.weight, conv.bias, norm.weight, norm.bias)
    wanted = sum(
        (p * p.grad).abs().pow(power).flatten(1).sum(1)
        if p.dim() > 1
        else (p * p.grad).abs().pow(power)
        for p in tensors
    )
    torch.testing.assert_close(found["features.0"], wanted.detach())


def test_scoring_changes_nothing():
    model = network("alexnet").train()
    model.features[0].weight.requires_grad_(False)
    model.features[0].bias.grad = torch.ones_like(model.features[0].bias)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ThreeSP(cross_entropy, (X, Y))(model, trace(model, X))
    assert model.training
    assert not model.features[0].weight.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["features.0.bias"]


def test_a_loss_that_is_nan():
    model = network()
    with pytest.raises(ValueError, match="the loss on this batch is nan"):
        ThreeSP(cross_entropy, (X * float("nan"), Y))(model, trace(model, X))


@pytest.mark.parametrize("option", ["saliency", "per_flop"])
def test_bad_option(option):
    with pytest.raises(ValueError, match=f"{option} is one of .*, got 'nothing'"):
        ThreeSP(cross_entropy, (X, Y), **{option: "nothing"})
