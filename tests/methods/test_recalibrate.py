import pytest
import torch
from torch import nn

import sparsetrain as st

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 3)
    )


def trained(model):
    model.train()
    for _ in range(100):
        model(X)
    return model.eval()


def test_statistics_are_means_over_the_batches():
    model = trained(network())
    model[1].momentum = 0.3
    st.methods.Magnitude(0.8, allocation="uniform").start(model)
    st.recalibrate(model, [X[:16], X[16:40], X[40:]])
    parts = [model[0](x).detach() for x in (X[:16], X[16:40], X[40:])]
    mean = torch.stack([p.mean(0) for p in parts]).mean(0)
    var = torch.stack([p.var(0) for p in parts]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, var)
    assert model[1].momentum == 0.3
    assert not model.training


def test_what_was_lost_after_pruning_at_once_comes_back():
    model = trained(network())
    st.methods.Magnitude(0.8, allocation="uniform").start(model)
    with torch.no_grad():
        off = model[1](model[0](X)).mean(0).abs().max()
        st.recalibrate(model, [X])
        rest = model[1](model[0](X)).mean(0).abs().max()
    assert float(off) > 0.5
    assert float(rest) < 1e-4


def test_it_leaves_modes_weights_and_dice_as_they_were():
    model = network().train()
    model[1].eval()
    before = {n: p.clone() for n, p in model.named_parameters()}
    dice = torch.get_rng_state()
    st.recalibrate(nn.DataParallel(model), iter([X]))
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert torch.equal(dice, torch.get_rng_state())


def test_pairs_of_a_loader_and_dicts_are_inputs():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x, scale=1.0):
            return self.norm(x * scale)

    for batch in ({"x": X}, (X, 1.0), [X]):
        model = Named()
        st.recalibrate(model, [batch])
        torch.testing.assert_close(model.norm.running_mean, X.mean(0))
    model = nn.Sequential(nn.BatchNorm1d(6))
    st.recalibrate(model, [(X, torch.zeros(64))])
    torch.testing.assert_close(model[0].running_mean, X.mean(0))


def test_without_a_batch_and_after_an_error_all_is_as_before():
    model = trained(network())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(ValueError, match="recalibrate: needs at least one batch of inputs, got"):
        st.recalibrate(model, [])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        st.recalibrate(model, [X, X[:, :3]])
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    st.recalibrate(nn.Linear(2, 2), [])  # has no norms
