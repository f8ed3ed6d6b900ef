import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from sparsetrain.methods import ActivationDensity

IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3
cross_entropy = nn.functional.cross_entropy


class Residual(nn.Module):
    """A stem and one block; its one ReLU module is called twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.conv1, self.bn1 = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(y)) + x)
        return self.head(x.mean((2, 3)))


def plain_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
        nn.ReLU(inplace=True),
        nn.Linear(10, 3),
    )


def by_hand():
    """Of four hidden units two are always active, two never."""
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0], [-2.0], [3.0]]))
        model[0].bias.zero_()
    return model, torch.rand(5, 1) + 1


def train(method, steps, model, optimizer, x=IMAGES, y=LABELS):
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        method.after_backward()
        optimizer.step()
        method.after_step()


def started(model, rate=0.05, **options):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), rate, 0.9)
    options = {"interval": 2, "tolerance": 1.0, "init": "inherit", **options}
    method = ActivationDensity(IMAGES, **options)
    method.start(model, optimizer)
    return method, optimizer


def test_worked_by_hand():
    model, x = by_hand()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    method = ActivationDensity(x, interval=3, tolerance=0.0, init="inherit")
    method.start(model, optimizer)
    y = torch.zeros(5, dtype=torch.long)
    train(method, 5, model, optimizer, x, y)
    assert method.densities == {"0": 0.5}
    assert model[0].out_features == 4
    train(method, 1, model, optimizer, x, y)
    assert model[0].weight.flatten().tolist() == [1.0, 3.0]
    assert method.densities == {"0": 0.5}
    train(method, 6, model, optimizer, x, y)
    assert method.densities == {"0": 1.0}
    assert [r["widths"] for r in method.records] == [{"0": 4}, {"0": 2}]
    assert [r["step"] for r in method.records] == [0, 6]
    assert method.complexity == 6 / 3 * 1 + 6 / 3 * 0.5
    assert method.records[1]["densities"] == {"0": 0.5}
    method.finish()
    assert type(model[1]) is nn.ReLU


def test_densities_are_counted_over_samples_channels_positions_and_steps():
    """Against torch's own relu, hooked; evaluation is left out."""
    model = Residual()
    method, optimizer = started(model, interval=3, tolerance=0.0)
    seen = []

    def look(module, args, out):
        if module.training:
            seen.append(out.detach().clamp(min=0))

    model.bn1.register_forward_hook(look)
    for _ in range(3):
        model.eval()(IMAGES)
        model.train()
        train(method, 1, model, optimizer)
    inner = torch.cat(seen)
    assert len(inner) == 24
    assert method.densities["conv1"] == int(inner.count_nonzero()) / inner.numel()


def test_a_stage_counts_behind_its_sums():
    model = Residual()
    method, optimizer = started(model, interval=1, tolerance=0.0)
    kept = []
    model.stem.register_forward_hook(lambda m, args, out: kept.append(out))
    model.bn2.register_forward_hook(lambda m, args, out: kept.append(out + kept[0]))
    train(method, 1, model, optimizer)
    both = [int((t > 0).sum()) for t in kept]
    assert method.densities["stem.0"] == sum(both) / (2 * kept[0].numel())


def test_widths_are_rounded_products():
    model = Residual()
    method, optimizer = started(model, patience=1)
    train(method, 4, model, optimizer)
    start, stage = method.records
    for name, density in stage["densities"].items():
        assert stage["widths"][name] == round(start["widths"][name] * density)
    assert model.conv1.out_channels == stage["widths"]["conv1"] < 6
    assert model.stem[0].out_channels == stage["widths"]["stem.0"] < 8


def test_internal_keeps_the_residual_stream():
    model = Residual()
    method, optimizer = started(model, residual="internal")
    train(method, 4, model, optimizer)
    assert model.stem[0].out_channels == 8
    assert model.conv1.out_channels < 6
    assert set(method.densities) <= {"conv1"}


def test_nothing_goes_before_densities_rest():
    model = plain_net()
    method, optimizer = started(model, rate=0.5, tolerance=0.0)
    train(method, 12, model, optimizer)
    with pytest.warns(UserWarning, match="nothing was removed, since densities changed by more"):
        method.finish()
    assert model[0].out_channels == 8


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_is_epochs_at_rest(patience):
    method, optimizer = started(model := plain_net(), patience=patience, stages=1)
    train(method, 2 * patience + 8, model, optimizer)
    assert [r["step"] for r in method.records] == [0, 2 * (patience + 1)]


def test_last_and_stages_end_it():
    method, optimizer = started(model := plain_net(), interval=1, stages=2, last=2)
    train(method, 6, model, optimizer)
    assert [r["step"] for r in method.records] == [0, 2]


def test_inherit_carries_weights_and_momentum():
    model = plain_net()
    method, optimizer = started(model, rate=0.0, select="l1")
    before, norms = model[0].weight.detach().clone(), model[0].weight.abs().flatten(1).sum(1)
    train(method, 3, model, optimizer)
    momentum = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    train(method, 1, model, optimizer)
    stay = norms.argsort(descending=True)[: model[0].out_channels].sort().values
    assert len(stay) < 8
    assert torch.equal(model[0].weight, before[stay])
    assert optimizer.state[model[0].weight]["momentum_buffer"].shape[0] == len(stay)
    assert momentum.shape[0] == 8


def test_fresh_draws_weights_of_the_first_size_and_forgets_momentum():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 60), nn.BatchNorm1d(60))
    model.append(nn.Linear(60, 3))
    x = torch.randn(16, 50)
    deviation = [float(model[i].weight.detach().std()) for i in (0, 2)]
    ema = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    method = ActivationDensity(x, interval=1, tolerance=1.0, stages=1, protect=["2"])
    method.start(model, optimizer, ema=ema)
    train(method, 2, model, optimizer, x, torch.arange(16) % 3)
    assert not optimizer.state
    narrow = model[0].out_features
    assert 150 < narrow < 250
    assert abs(float(model[0].weight.detach().std()) / deviation[0] - 1) < 0.05
    gain = (400 / narrow) ** 0.5
    assert abs(float(model[2].weight.detach().std()) / deviation[1] / gain - 1) < 0.05
    assert (model[3].weight == 1).all()
    assert (model[3].running_mean == 0).all()
    for a, b in zip(model.state_dict().values(), ema.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_random_selection_is_seeded():
    weights = []
    for seed in (0, 0, 1):
        model, x = by_hand()
        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        options = {"tolerance": 1.0, "stages": 1, "init": "inherit", "select": "random"}
        method = ActivationDensity(x, interval=1, seed=seed, **options)
        method.start(model, optimizer)
        train(method, 2, model, optimizer, x, torch.zeros(5, dtype=torch.long))
        weights.append(model[0].weight.flatten().tolist())
    assert weights[0] == weights[1] != weights[2]


def test_a_compiled_model():
    found = []
    for compiled in (False, True):
        torch.manual_seed(3)
        model = Residual()
        method, optimizer = started(model)
        torch._dynamo.reset()
        run = torch.compile(model, backend="eager") if compiled else model
        train(method, 5, run, optimizer)
        found.append(method.records)
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_steps_that_overflow_do_not_count():
    model = plain_net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    method = ActivationDensity(IMAGES, interval=2, tolerance=1.0, init="inherit", stages=1)
    method.start(model, optimizer, scaler=scaler)
    for step in range(6):
        optimizer.zero_grad()
        scaler.scale(cross_entropy(model(IMAGES), LABELS)).backward()
        if step in (1, 3):
            model[0].weight.grad[0] = float("inf")
        scaler.unscale_(optimizer)
        method.after_backward()
        scaler.step(optimizer)
        scaler.update()
        method.after_step()
        assert len(method.records) == (2 if step == 5 else 1)


class Functional(nn.Module):
    def __init__(self, in_place=False):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(3, 4), nn.Linear(4, 2), nn.ReLU(inplace=True)
        self.in_place = in_place

    def forward(self, x):
        x = self.a(x)
        if not self.in_place:
            return self.b(nn.functional.relu(x))
        y = self.relu(x)
        return self.b(x + y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Functional(), "the relu in Functional is no nn.ReLU module"),
        (Functional(in_place=True), "changes in place what another layer reads too"),
        (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), "pass a ReLU"),
    ],
)
def test_relus_that_cannot_be_counted(model, message):
    method = ActivationDensity(torch.randn(4, 3), interval=1)
    with pytest.raises(ValueError, match=f"ActivationDensity: .*{message}"):
        method.start(model, torch.optim.SGD(model.parameters(), 0.1))


def test_an_epoch_without_training_is_an_error():
    model = plain_net()
    method, optimizer = started(model)
    with pytest.raises(RuntimeError, match="no activation of 0 was counted in the steps up to 2"):
        train(method, 2, model.eval(), optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "need interval, stages, patience >= 1 .* got 0, 4, 1, 0.01"),
        ({"tolerance": -1.0}, "tolerance >= 0"),
        ({"enough": 0.0}, r"enough is a density in \(0, 1\], got 0.0"),
        ({"last": 19}, "last=19 is before step 20"),
        ({"init": "new"}, "init is one of fresh, inherit, got 'new'"),
        ({"select": "l2"}, "select is one of channel_density, l1, random, got 'l2'"),
        ({"residual": "none"}, "residual is one of shared, internal"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ActivationDensity(IMAGES, **{"interval": 10, **options})
