import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sparsetrain import NM, checkpoint, optim, scores
from sparsetrain.methods import ActivationDensity, ChannelPruning, NetworkSlimming, ThreeSP

X, Y = torch.randn(8, 3, 4, 4), torch.arange(8) % 3
cross_entropy = nn.functional.cross_entropy


class Net(nn.Module):
    """A stem and one residual block."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.stem(x)
        x = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + x)
        return self.head(x.flatten(1))


def network():
    torch.manual_seed(5)
    return Net()


def train(method, steps, model, optimizer):
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(X), Y).backward()
        method.after_backward()
        optimizer.step()
        method.after_step()


def sgd(model, library=torch.optim, rate=0.05):
    return library.SGD(model.parameters(), rate, 0.9, weight_decay=1e-3)


def norms():
    return scores.FilterNorm(1)


METHODS = {
    "activation density, fresh": lambda: ActivationDensity(X, 2, stages=1, tolerance=1.0),
    "activation density, inherit": lambda: ActivationDensity(
        X, 1, stages=2, tolerance=1.0, init="inherit", select="random"
    ),
    "rounds": lambda: ChannelPruning(
        X,
        scores.Taylor(cross_entropy, [(X, Y)]),
        channels=0.5,
        at=1,
        rounds=3,
        interval=1,
        momentum=0.9,
        round_to=1,
    ),
    "fresh": lambda: ChannelPruning(
        X, norms(), flops=0.5, rounds=2, interval=3, reinit="fresh", round_to=1
    ),
    "uniform": lambda: ChannelPruning(
        X, scores.FPGM(), channels=0.5, at=3, allocation="uniform", reinit="rescale", round_to=1
    ),
    "slimming": lambda: NetworkSlimming(X, channels=0.6, at=3, s=1e-2, round_to=1),
    "3sp": lambda: ThreeSP(cross_entropy, (X, Y), at=2, round_to=1),
}


@pytest.mark.parametrize("library", [torch.optim, optim], ids=["torch", "ours"])
@pytest.mark.parametrize("name", METHODS)
def test_resuming_is_exact_at_every_step(name, library, tmp_path):
    """Saved to a file after each step, and gone on from there in new objects."""
    whole, method = network(), METHODS[name]()
    optimizer = sgd(whole, library)
    method.start(whole, optimizer)
    saved = []
    for step in range(5):
        train(method, 1, whole, optimizer)
        state = {"model": whole, "optimizer": optimizer, "method": method}
        checkpoint.save(tmp_path / f"{step}", {k: v.state_dict() for k, v in state.items()})
        saved.append(tmp_path / f"{step}")
    assert method.records[-1]["flops"] < method.records[0]["flops"]
    for step, path in enumerate(saved):
        state = checkpoint.load(path)
        model, again = network(), METHODS[name]()
        checkpoint.restore(model, state["model"], str(path))
        second = sgd(model, library)
        state["optimizer"]["state"] = {int(k): v for k, v in state["optimizer"]["state"].items()}
        second.load_state_dict(state["optimizer"])
        again.resume(model, second, state["method"])
        train(again, 4 - step, model, second)
        assert again.records == method.records
        for a, b in zip(whole.state_dict().values(), model.state_dict().values(), strict=True):
            assert torch.equal(a, b), f"stopped after step {step + 1}"


def test_rounds_follow_the_share():
    """After round r of 3 the share 0.5 ^ (r / 3) of the 14 channels is left."""
    model = network()
    method = ChannelPruning(X, norms(), channels=0.5, at=2, rounds=3, interval=2, round_to=1)
    optimizer = sgd(model)
    method.start(model, optimizer)
    train(method, 8, model, optimizer)
    assert [r["step"] for r in method.records] == [0, 2, 4, 6]
    left = [sum(r["widths"].values()) for r in method.records]
    assert left == [14, int(14 * 0.5 ** (1 / 3)), int(14 * 0.5 ** (2 / 3)), 7]
    flops = [r["flops"] for r in method.records]
    assert flops == sorted(set(flops), reverse=True)


def test_uniform_keeps_the_same_share_everywhere():
    model = network()
    options = {"channels": 0.5, "allocation": "uniform", "rounds": 2, "round_to": 1}
    method = ChannelPruning(X, norms(), **options)
    optimizer = sgd(model)
    method.start(model, optimizer)
    assert method.records[-1]["widths"] == {"stem.0": 5, "conv1": 4}  # of 0.71 * (8, 6)
    train(method, 1, model, optimizer)
    assert method.records[-1]["widths"] == {"stem.0": 4, "conv1": 3}


def test_momentum_blends_with_the_rounds_before():
    """By hand: the second round sees 0.9 of the first one's scores."""
    given = iter(([8.0, 1, 2, 3, 4, 5], [0.0, 10, 20, 30, 40]))

    def score(model, graph):
        wide = torch.full((8,), 1e9)
        return {"stem.0": wide, "conv1": torch.tensor(next(given))}

    model = network()
    method = ChannelPruning(X, score, channels=0.9, rounds=2, interval=1, momentum=0.9, round_to=1)
    optimizer = sgd(model, rate=0.0)
    before = model.conv1.weight.detach().clone()
    method.start(model, optimizer)
    train(method, 1, model, optimizer)
    # kept 0, 2, 3, 4, 5 with [8, 2, 3, 4, 5]; then [7.2, 2.8, 4.7, 6.6, 8.5]: channel 2 goes
    assert torch.equal(model.conv1.weight, before[[0, 3, 4, 5]])


def test_the_optimizer_and_the_copy_shrink_along():
    model = network()
    ema, optimizer = AveragedModel(model), sgd(model)
    method = ChannelPruning(X, norms(), flops=0.6, at=2, reinit="rescale", round_to=1)
    method.start(model, optimizer, ema=ema)
    train(method, 2, model, optimizer)
    momentum = optimizer.state[model.conv1.weight]["momentum_buffer"]
    assert momentum.shape == model.conv1.weight.shape != (6, 8, 1, 1)
    ema.update_parameters(model)
    assert ema.module.conv1.weight.shape == model.conv1.weight.shape


def test_rescale_acts_on_the_averaged_copy_too():
    model = network()
    ema = AveragedModel(model)
    method = ThreeSP(cross_entropy, (X, Y), reinit="rescale", round_to=1)
    method.start(model, sgd(model), ema=ema)
    for a, b in zip(model.parameters(), ema.module.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("reinit", ["rescale", "fresh"])
def test_frozen_parameters_keep_their_values(reinit):
    model = network()
    for parameter in (*model.stem.parameters(), model.head.weight):
        parameter.requires_grad_(False)
    model.stem[1].running_mean.fill_(3)
    groups = [{"params": [model.conv1.weight], "lr": 0.1}]
    groups.append({"params": [p for p in model.parameters() if p is not model.conv1.weight]})
    optimizer = torch.optim.AdamW(groups, 0.01)
    stem = model.stem[0].weight.clone()
    method = ChannelPruning(
        X, norms(), channels=0.7, at=1, reinit=reinit, round_to=1, allocation="uniform"
    )
    method.start(model, optimizer)
    train(method, 1, model, optimizer)
    kept = [any(torch.equal(old, new) for new in model.stem[0].weight) for old in stem]
    assert sum(kept) == model.stem[0].out_channels < 8
    assert (model.stem[1].running_mean != 0).all()
    train(method, 1, model, optimizer)
    assert all(p.shape == s["exp_avg"].shape for p, s in optimizer.state.items())


def test_a_compiled_model_with_accumulated_gradients():
    found = []
    for compiled in (False, True):
        model = network()
        torch._dynamo.reset()
        run = torch.compile(model, backend="eager") if compiled else model
        optimizer = sgd(model)
        method = NetworkSlimming(X, channels=0.6, at=2, round_to=1)
        method.start(run, optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            for half in (slice(0, 4), slice(4, 8)):
                cross_entropy(run(X[half]), Y[half]).backward()
            method.after_backward()
            optimizer.step()
            method.after_step()
        found.append([p.detach() for p in model.parameters()])
    assert found[0][0].shape[0] < 8
    torch.testing.assert_close(found[0], found[1])


def test_slimming_by_hand():
    """grad(gamma) grows by s * sign(gamma) until the threshold falls on |gamma|."""
    model = network()
    scales = [model.stem[1].weight, model.bn1.weight, model.bn2.weight]
    with torch.no_grad():
        scales[0].copy_(torch.tensor([1.0, -0.1, 0.9, 0.8, -0.7, 0.6, 0.5, 0.05]))
        scales[1].copy_(torch.tensor([-0.9, 0.02, 0.8, -0.03, 0.7, 0.6]))
        scales[2].copy_(scales[0])
    plain = torch.autograd.grad(cross_entropy(model(X), Y), scales)
    method = NetworkSlimming(X, channels=10 / 14, at=1, s=0.5, round_to=1)
    optimizer = sgd(model, rate=0.0)
    method.start(model, optimizer)
    optimizer.zero_grad()
    cross_entropy(model(X), Y).backward()
    method.after_backward()
    for scale, grad in zip(scales, plain, strict=True):
        torch.testing.assert_close(scale.grad, grad + 0.5 * scale.detach().sign())
    kept = [0, 2, 3, 4, 5, 6]  # of the stem: without 0.1 and 0.05; of conv1 without 0.02, 0.03
    stem, inner = model.stem[0].weight.detach().clone(), model.conv1.weight.detach().clone()
    optimizer.step()
    method.after_step()
    assert torch.equal(model.stem[0].weight, stem[kept])
    assert torch.equal(model.conv1.weight, inner[[0, 2, 4, 5]][:, kept])
    optimizer.zero_grad()
    cross_entropy(model(X), Y).backward()
    before = model.bn1.weight.grad.clone()
    method.after_backward()
    assert torch.equal(model.bn1.weight.grad, before)  # no penalty after pruning


def test_slimming_names_channels_without_a_norm():
    model = nn.Sequential(nn.Conv2d(3, 8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    method = NetworkSlimming(X, channels=0.5, at=5)
    with pytest.raises(ValueError, match=r"channels of 0 pass no batch norm; .* protect=\['0'\]"):
        method.start(model, sgd(model))


def test_a_share_out_of_reach_is_said_at_the_start():
    model = network()
    method = ChannelPruning(X, norms(), flops=0.01, at=100, round_to=4)
    with pytest.raises(ValueError, match="flops=0.01 would empty a layer"):
        method.start(model, sgd(model))


def test_what_the_machine_decided_goes_along(monkeypatch):
    """A run that asked for this machine's rounding keeps it where another one goes on."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    options = {"channels": 0.5, "at": 2, "round_to": "machine"}
    model = network()
    optimizer, method = sgd(model), ChannelPruning(X, norms(), **options)
    with pytest.warns(UserWarning, match="multiples of round_to=16"):
        method.start(model, optimizer)
    assert method.of_machine == {"round_to": 16}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    again = ChannelPruning(X, norms(), **options)
    again.resume(model, optimizer, method.state_dict())
    assert again.of_machine == {"round_to": 16}
    assert ChannelPruning(X, norms(), channels=0.5)._round_to is None


def test_ending_too_early_warns():
    model = network()
    method = ChannelPruning(X, norms(), flops=0.5, at=5, round_to=1)
    optimizer = sgd(model)
    method.start(model, optimizer)
    train(method, 2, model, optimizer)
    with pytest.warns(UserWarning, match="training ended at step 2, before the last round at step"):
        method.finish()


def test_distributed_models_are_wrapped_afterwards(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(network())
        method = ChannelPruning(X, norms(), flops=0.5)
        with pytest.raises(ValueError, match="prune first, then wrap"):
            method.start(wrapped, sgd(wrapped))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "need one of flops, parameters, channels, memory, got none"),
        ({"flops": 0.5, "channels": 0.5}, r"got \['flops', 'channels'\]"),
        ({"flops": 0.0}, r"flops is the share to keep, in \(0, 1\], got 0.0"),
        ({"flops": 0.5, "pattern": NM(2, 4)}, "has no meaning here; it takes Channel"),
        ({"flops": 0.5, "allocation": "erk"}, "allocation is one of global, uniform, got 'erk'"),
        ({"flops": 0.5, "reinit": "other"}, "reinit is one of keep, rescale, fresh"),
        ({"flops": 0.5, "rounds": 0}, "rounds, interval >= 1, got 0, 0, 1"),
        ({"flops": 0.5, "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=f"ChannelPruning: .*{message}"):
        ChannelPruning(X, norms(), **options)
