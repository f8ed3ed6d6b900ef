"""Whole methods against plain loops written after their authors' code (docs/methods.md)."""

import math

import pytest
import torch
from torch import nn

from sparsetrain.methods import GMP, SET, SRSTE, GraNet, RigL, SparseGPT
from sparsetrain.selection.patterns import NM


def layers(*shapes):
    torch.manual_seed(2)
    return nn.Sequential(*[nn.Linear(i, o, bias=False) for o, i in shapes])


def played(method, model, steps, momentum=0.9, decay=1e-2):
    """Yields (step, weights before, gradients, masks after its update, weights after)."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum, weight_decay=decay)
    method.start(model, optimizer)
    stream = torch.Generator().manual_seed(5)
    for step in range(1, steps + 1):
        before = [p.detach().clone() for p in model.parameters()]
        grads = [torch.randn(p.shape, generator=stream) for p in model.parameters()]
        for parameter, grad in zip(model.parameters(), grads, strict=True):
            parameter.grad = grad.clone()
        method.after_backward()
        masks = [m.clone() for m in method.masks.values()]
        optimizer.step()
        method.after_step()
        yield step, before, grads, masks, [p.detach().clone() for p in model.parameters()]


def top(score, k):
    return torch.zeros(score.numel(), dtype=torch.bool).index_fill(
        0, score.flatten().topk(k).indices, True
    )


def sgd(w, g, v, mask):
    v = 0.9 * v + (g * mask + 1e-2 * w)
    return (w - 0.1 * v) * mask, v * mask


def test_rigl_replaces_updates_by_moves_of_the_masks():
    shapes = [(12, 8), (6, 12)]
    method = RigL(0.6, 40, interval=4, noise=0.0)
    masks = velocity = None
    for step, ws, gs, now, after in played(method, layers(*shapes), 40):
        if masks is None:
            masks, velocity = now, [torch.zeros_like(w) for w in ws]
        moves = step % 4 == 0 and step <= 30
        rate = 0.3 / 2 * (1 + math.cos(math.pi * step / 30))
        for i, (w, g) in enumerate(zip(ws, gs, strict=True)):
            if moves:
                live = int(masks[i].sum())
                drop = int(live * rate)
                kept = top(w.abs() * masks[i], live - drop).view_as(w)
                new = top(g.abs().masked_fill(kept, -1), drop).view_as(w)
                velocity[i] *= masks[i] & (kept | new)
                masks[i] = kept | new
                w = w * masks[i]
            else:
                w, velocity[i] = sgd(w, g, velocity[i], masks[i])
            assert torch.equal(now[i], masks[i])
            torch.testing.assert_close(after[i], w, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("exact_end", [True, False])
def test_granet_prunes_all_and_regrows_each_layer(exact_end):
    shapes = [(12, 8), (6, 12)]
    method = GraNet(0.8, 40, interval=4, exact_end=exact_end)
    masks, total = None, 168
    for step, ws, gs, now, _ in played(method, layers(*shapes), 40):
        masks = now if masks is None else masks
        if step % 4 == 0:
            u, ends = step // 4, 20 // 4
            u = min(u, ends if exact_end else ends - 1)
            sparsity = 0.8 + (0.5 - 0.8) * (1 - u / ends) ** 3
            flat = torch.cat([(w.abs() * m).flatten() for w, m in zip(ws, masks, strict=True)])
            left = min(total - round(total * sparsity), sum(int(m.sum()) for m in masks))
            parts = top(flat, left).split([w.numel() for w in ws])
            rate = 0.005 + (0.5 - 0.005) / 2 * (1 + math.cos(math.pi * step / 40))
            for i, (w, g, part) in enumerate(zip(ws, gs, parts, strict=True)):
                pruned = part.view_as(w)
                live = int(pruned.sum())
                drop = math.ceil(live * rate)
                kept = top((w.abs() * pruned).masked_fill(~pruned, -1), live - drop).view_as(w)
                masks[i] = kept | top(g.abs().masked_fill(kept, -1), drop).view_as(w)
        assert all(map(torch.equal, now, masks))


def test_gmp_keeps_the_largest_along_the_cubic():
    method = GMP(0.8, 40, interval=4)
    masks = [torch.ones(12, 8, dtype=torch.bool), torch.ones(6, 12, dtype=torch.bool)]
    for step, ws, _, now, _ in played(method, layers((12, 8), (6, 12)), 40):
        if step % 4 == 0 and step <= 32:
            sparsity = 0.8 * (1 - (1 - step / 32) ** 3)
            flat = torch.cat([(w.abs() * m).flatten() for w, m in zip(ws, masks, strict=True)])
            parts = top(flat, 168 - round(168 * sparsity)).split([96, 72])
            masks = [p.view_as(w) for p, w in zip(parts, ws, strict=True)]
        assert all(map(torch.equal, now, masks))


def test_set_as_in_its_paper_drops_those_nearest_to_zero_of_each_sign():
    method = SET(0.5, 40, interval=4, noise=0.0, drop="signed")
    masks = None
    for step, ws, _, now, _ in played(method, layers((12, 8)), 40):
        if masks is None or step % 4 or step > 30:
            masks = now if masks is None else masks
            assert torch.equal(now[0], masks[0])
            continue
        w, old = ws[0], masks[0]
        for sign in (w < 0, w >= 0):
            side = old & sign
            count = int(side.sum())
            stays = top(w.abs().masked_fill(~side, -1), count - int(count * 0.3)).view_as(w)
            assert (now[0] & stays).sum() == stays.sum()
        assert now[0].sum() == old.sum()
        masks = now


def test_srste_trains_dense_weights_through_n_of_m():
    model = layers((6, 8))
    w = model[0].weight.detach().clone()
    velocity = torch.zeros_like(w)
    method = SRSTE(pattern=NM(2, 4), decay=2e-1)

    def mask_of(w):
        groups = w.abs().view(-1, 4)
        order = groups.topk(2, dim=1).indices
        return torch.zeros_like(groups).scatter(1, order, 1.0).view_as(w)

    for _, shown, grads, _, _ in played(method, model, 12):
        mask = mask_of(w)
        torch.testing.assert_close(shown[0], w * mask, rtol=1e-5, atol=1e-7)
        grad = grads[0] + 2e-1 * (1 - mask) * w + 1e-2 * w
        velocity = 0.9 * velocity + grad
        w = w - 0.1 * velocity


def plain_sparsegpt(w, x, sparsity, block, damp, pattern=None):
    """The code's fasterprune in float64; each block loses its share exactly."""
    w, x = w.double().clone(), x.double()
    h = 2 / len(x) * x.T @ x
    dead = h.diagonal() == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h += damp * h.diagonal().mean() * torch.eye(len(h))
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    width = w.shape[1]
    gone_all = torch.zeros_like(w, dtype=torch.bool)
    zeros = round(w.numel() * sparsity)
    for first in range(0, width, block):
        last = min(first + block, width)
        inside = w[:, first:last]
        worth = inside.square() / u.diagonal()[first:last].square()
        gone = torch.zeros_like(worth, dtype=torch.bool)
        if pattern is None:
            quota = zeros * last // width - zeros * first // width
            gone = top(-worth, quota).view_as(worth)
        errors = torch.zeros_like(worth)
        for j in range(first, last):
            i = j - first
            if pattern is not None and i % 4 == 0:
                worth = w[:, j : j + 4].square() / u.diagonal()[j : j + 4].square()
                lowest = worth.topk(2, dim=1, largest=False).indices
                gone[:, i : i + 4].scatter_(1, lowest, True)
            column = w[:, j]
            errors[:, i] = (column - column.masked_fill(gone[:, i], 0)) / u[j, j]
            w[:, j:last] -= errors[:, i : i + 1] @ u[j : j + 1, j:last]
            w[:, j].masked_fill_(gone[:, i], 0)
        w[:, last:] -= errors @ u[first:last, last:]
        gone_all[:, first:last] = gone
    return w, ~gone_all


@pytest.mark.parametrize("pattern", [None, NM(2, 4)])
@pytest.mark.parametrize("block", [8, 128])
def test_sparsegpt_solves_column_by_column(pattern, block):
    torch.manual_seed(1)
    x = torch.randn(60, 24, dtype=torch.float64) + torch.randn(60, 1, dtype=torch.float64)
    x[:, 5] = 0
    model = nn.Linear(24, 10, bias=False).double()
    wanted, mask = plain_sparsegpt(model.weight.detach(), x, 0.5, block, 0.01, pattern)
    options = {} if pattern is None else {"pattern": pattern}
    method = SparseGPT(0.5, [x], block, **options)
    method.start(model)
    assert torch.equal(method.masks["weight"], mask)
    torch.testing.assert_close(model.weight.detach(), wanted * mask, rtol=1e-9, atol=1e-11)
