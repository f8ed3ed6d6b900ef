"""Every method of conftest.py says in which steps its hooks need whole weights."""

import math

import torch
from torch import nn

from sparsetrain import methods, optim
from sparsetrain.selection.masks import sparsity
from sparsetrain.selection.schedules import Steps
from sparsetrain.training.execution import Execution

STEPS = 12


def network():
    torch.manual_seed(2)
    layers = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)
    return nn.Sequential(*layers)


def trained(method, data, execution):
    """Yields after each step."""
    model = network()
    optimizer = optim.SGD(model.parameters(), 0.05, 0.9)
    method.start(model, optimizer)
    run = Execution(execution, model, optimizer, method, lambda: data[0], STEPS)
    for step in range(1, STEPS + 1):
        run.prepare(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        method.after_backward()
        optimizer.step()
        method.after_step()
        yield run
    run.densify()


def test_masks_rest_until_the_next_change(make, data):
    method, before, change = make(), None, 0
    for step, _ in enumerate(trained(method, data, "dense"), 1):
        moved = before is None or any(m is not before[n] for n, m in method.masks.items())
        assert before is None or not moved or step == change
        before, change = dict(method.masks), method.next_change(step)
        assert change > step


def test_packed_in_between_it_ends_as_sparse(make, data):
    dense, packed = make(), make()
    for _ in trained(dense, data, "dense"):
        ...
    was_packed = [run.packed for run in trained(packed, data, "sparse")]
    assert sparsity(packed.masks) == sparsity(dense.masks)
    rests = any(packed.next_change(step) > step + 1 for step in range(STEPS))
    assert rests or not any(was_packed)
    for name, mask in packed.masks.items():
        assert not packed._state.parameters[name][~mask].any()


def test_steps_of_some_schedules():
    assert methods.Method().next_change(4) == 5
    assert methods.Random(0.5).next_change(4) == math.inf
    drive = methods.DRIVE(0.5, dense_steps=3, rounds=3, interval=4, batches=2)
    assert [drive.next_change(s) for s in (0, 2, 3, 4, 7, 11, 12)] == [3, 3, 4, 7, 8, 12, math.inf]
    acdc = methods.ACDC(0.5, 100)
    assert [acdc.next_change(s) for s in (0, 10, 11, 86)] == [11, 11, 16, math.inf]
    imp = methods.IMP(0.5, level_steps=10, levels=2, rewind_step=3)
    assert [imp.next_change(s) for s in (0, 3, 10, 17)] == [3, 10, 17, math.inf]
    steps = Steps(3, 9, 3)
    assert [steps.after(s) for s in (0, 2, 3, 8, 9)] == [3, 3, 6, 9, math.inf]


def test_a_method_that_does_not_say_is_always_dense():
    class Own(methods.masking.Masking):
        def _act(self, step): ...

    assert Own(0.5).next_change(3) == 4
