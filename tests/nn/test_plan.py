"""Sparse convolutions put together from a Plan's entries, against F.conv2d in fp64."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from sparsetrain.nn.packed import Pattern
from sparsetrain.nn.plan import Geometry, Plan
from sparsetrain.ops import sddmm, sddmm_reference, spmm, spmm_reference

SAME = Geometry(padding=(1, 1))


@dataclass(frozen=True)
class Case:
    """A convolution, and how it is packed."""

    kernel: tuple[int, int] = (3, 3)
    geometry: Geometry = SAME
    size: tuple[int, int] = (5, 7)
    channels: int = 6
    outputs: int = 10
    lanes: int = 2
    v: int = 1
    more: tuple[int, int] = (0, 0)  # halo beyond the padding
    density: float = 0.3

    @property
    def halo(self):
        return tuple(p + m for p, m in zip(self.geometry.padding, self.more, strict=True))


def like(stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1):
    return Geometry(stride, padding, dilation, groups)


STRIDES = [(2, 2), (1, 2), (3, 1), (2, 3)]
CASES = [
    *(Case((k, k), like(padding=(k // 2, k // 2)), size=(7, 9)) for k in (1, 2, 3, 5, 7)),
    *(Case((k, k), like(padding=(0, 0)), size=(7, 8)) for k in (1, 3, 5, 7)),
    Case((1, 3), like(padding=(0, 1))),
    Case((3, 1), like(padding=(0, 2))),
    Case((1, 1), like(padding=(1, 2))),
    *(Case(geometry=like(s), size=n) for s in STRIDES for n in ((5, 7), (8, 8))),
    *(Case(geometry=like((2, 2), (0, 0)), size=n) for n in ((3, 3), (4, 6), (5, 5))),
    Case((1, 1), like((2, 2), (0, 0)), (7, 8)),
    Case((7, 7), like((2, 2), (3, 3)), (15, 14), channels=3),
    Case((2, 2), like((3, 3), (0, 0)), (8, 7)),
    Case(geometry=like(padding=(2, 2), dilation=(2, 2)), size=(6, 5)),
    Case(geometry=like((2, 2), (2, 3), (2, 3)), size=(9, 8)),
    Case(geometry=like(groups=2)),
    Case(geometry=like((2, 1), groups=2), outputs=8, v=4),
    Case(geometry=like(groups=6), outputs=6),
    Case(geometry=like((2, 2), groups=6), outputs=24, v=4),
    *(Case(outputs=2 * v + 1, v=v, lanes=n) for v in (4, 8, 16) for n in (1, 4)),
    *(Case(geometry=like((2, 2)), outputs=2 * v - 1, v=v) for v in (4, 8, 16)),
    *(Case(size=n, lanes=8) for n in ((1, 1), (2, 2), (1, 5), (4, 1))),
    Case(more=(1, 1)),
    Case(geometry=like((2, 2)), more=(1, 2)),
    Case((1, 1), like(padding=(0, 0)), more=(2, 1)),
    Case(density=0.0),
    Case(density=0.01),
    Case(density=1.0, v=4),
    Case(channels=1, outputs=1),
    Case(channels=96, outputs=24, size=(4, 6), lanes=16, density=0.9),
    Case(channels=96, outputs=24, size=(4, 6), lanes=16, v=4, density=0.9),
]


def blocked(x, lanes, halo):
    blocks = x.unflatten(0, (-1, lanes)).permute(0, 2, 3, 4, 1)
    return F.pad(blocks, (0, 0, halo[1], halo[1], halo[0], halo[0])).contiguous()


def dense(y, halo):
    rows, columns = (slice(h, n - h) for h, n in zip(halo, y.shape[2:4], strict=True))
    return y[:, :, rows, columns].permute(0, 4, 1, 2, 3).flatten(0, 1)


def problem(case):
    """The plan, and in fp64: x, the values, dy, and what must come out: y, dx and the dvalues."""
    inputs = case.channels // case.geometry.groups
    groups = -(-case.outputs // case.v)
    live = torch.rand(groups, inputs, *case.kernel) < case.density
    mask = live.repeat_interleave(case.v, 0)[: case.outputs]
    pattern = Pattern.of(mask, case.v)
    x = torch.randn(2 * case.lanes, case.channels, *case.size, dtype=torch.float64)
    weight = torch.randn(mask.shape, dtype=torch.float64) * mask
    x.requires_grad_(), weight.requires_grad_()
    g = case.geometry
    y = F.conv2d(x, weight, None, g.stride, g.padding, g.dilation, g.groups)
    dy = torch.randn_like(y)
    dx, dw = torch.autograd.grad(y, (x, weight), dy)
    rows, columns = (n + 2 * h for n, h in zip(case.size, case.halo, strict=True))
    plan = Plan(pattern, g, (case.channels, rows, columns, case.lanes), case.halo)
    return plan, x.detach(), pattern.gather(weight.detach()), dy, (y.detach(), dx, dw)


def run(plan, x, values, dy, product, gradient):
    """y, dx and dw as a sparse layer takes them from the plan."""
    lanes, halo = plan.x_shape[3], plan.dy_halo
    phases = plan.phases(blocked(x, lanes, plan.halo))
    entries, place = plan.forward
    y = product(phases, values[place], entries)
    back, place_back = plan.backward(halo)
    blocked_dy = blocked(dy, lanes, halo)
    strided = plan.geometry.stride != (1, 1)
    dphases = product(
        blocked_dy, values.flatten()[place_back, None], back, (0, 0) if strided else plan.halo
    )
    dvalues = torch.empty_like(values)
    dvalues[place] = gradient(blocked_dy, phases, entries, halo)
    dx = dense(plan.merged(dphases), plan.halo)
    return dense(y, (0, 0)), dx, plan.pattern.scatter(dvalues)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_is_the_convolution(case):
    plan, *tensors, wanted = problem(case)
    found = run(plan, *tensors, spmm_reference, sddmm_reference)
    live = plan.pattern.mask()
    for mine, exact in zip(found, (*wanted[:2], wanted[2] * live), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_kernels_are_the_convolution(case):
    plan, *tensors, wanted = problem(case)
    found = run(plan, *(t.float() for t in tensors), spmm, sddmm)
    live = plan.pattern.mask()
    for mine, exact in zip(found, (*wanted[:2], wanted[2] * live), strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_every_weight_is_read_once_inside_x(case):
    """Entries raise where an offset leaves x, so with every weight live no pattern can."""
    plan, *_ = problem(replace(case, density=1.0))
    for halo in (plan.dy_halo, tuple(h + 1 for h in plan.dy_halo)):
        for entries, place in (plan.forward, plan.backward(halo)):
            assert len(entries.offset) == len(place)
            assert torch.equal(place.sort().values, place.unique())
            rows, columns = entries.size
            read = ((rows - 1) * entries.x_shape[2] + columns) * entries.x_shape[3]
            assert entries.offset.min() >= 0
            assert entries.offset.max() + read <= torch.Size(entries.x_shape).numel()
    values = plan.pattern.entries * plan.pattern.v
    assert len(plan.forward[1]) == plan.pattern.entries
    assert len(plan.backward(plan.dy_halo)[1]) == plan.pattern.live <= values


def test_segments_read_channels_of_their_own():
    plan, *_ = problem(CASES[-2])
    entries, _ = plan.forward
    assert entries.segments > 1
    plane = torch.Size(entries.x_shape[1:]).numel()
    bounds = entries.start[:: (len(entries.start) - 1) // entries.segments].tolist()
    channels = [entries.offset[a:b] // plane for a, b in pairwise(bounds)]
    assert all(a.max() < b.min() for a, b in pairwise(channels))


def test_a_linear_layer():
    mask = torch.rand(10, 12) < 0.4
    plan = Plan(Pattern.of(mask), Geometry(), (12, 1, 1, 8), (0, 0))
    weight, x = torch.randn(10, 12) * mask, torch.randn(16, 12)
    entries, place = plan.forward
    blocks = x.view(2, 8, 12).mT.contiguous().view(2, 12, 1, 1, 8)
    y = spmm(blocks, plan.pattern.gather(weight)[place], entries)
    torch.testing.assert_close(y.view(2, 10, 8).mT.reshape(16, 10), x @ weight.t())


def weight(*shape, v=1):
    return Pattern.of(torch.ones(shape).bool(), v)


BAD = [
    ((weight(4, 3, 3), Geometry(), (3, 1, 5, 1), (0, 0)), r"\[O, I\] or \[O, I, rows, columns\]"),
    ((weight(4, 1, 3, 3), like(groups=3), (3, 5, 5, 1), (1, 1)), "4 outputs in 3 groups are not"),
    ((weight(6, 1, 3, 3, v=4), like(groups=6), (6, 5, 5, 1), (1, 1)), "not whole groups of v=4"),
    ((weight(4, 3, 3, 3), like(), (6, 5, 5, 1), (1, 1)), "reads 3 channels, x has 6"),
    ((weight(4, 3, 3, 3), like(), (3, 5, 5, 1), (0, 1)), r"a padding of \(1, 1\) needs as much"),
    ((weight(4, 3, 5, 5), like(), (3, 4, 8, 1), (1, 1)), r"a kernel of \(5, 5\) does not fit"),
    ((weight(4, 3, 3, 3), like(), (3, 1 << 10, 1 << 10, 1 << 10), (1, 1)), "fewer lanes"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=f"Plan: .*{message}"):
        Plan(*arguments)


def test_too_little_halo_of_dy():
    plan = Plan(weight(4, 3, 3, 3), like(padding=(0, 0)), (3, 5, 5, 1), (0, 0))
    with pytest.raises(ValueError, match=r"Plan: dy needs a halo of \(2, 2\), got \(1, 2\)"):
        plan.backward((1, 2))
