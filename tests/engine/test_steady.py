"""Steady calls of a network: none allocates, whatever thread it runs on."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsetrain as st
import sparsetrain_runtime

RUNTIME = Path(sparsetrain_runtime.__file__).parents[1]
COUNTER = Path(__file__).parents[1] / "csrc" / "allocations.cpp"

CALLS = """
import ctypes, sys
import numpy as np
import sparsetrain_runtime
from sparsetrain_runtime import library

counted = ctypes.CDLL(sys.argv[1]).allocations
counted.restype = ctypes.c_long
net = sparsetrain_runtime.load(sys.argv[2], 2, tune=False)
for batch in (1, 8):
    shapes = {n: [batch if d is None else d for d in s.shape] for n, s in net.inputs.items()}
    given = {n: np.ones(shape, net.inputs[n].dtype) for n, shape in shapes.items()}
    session = net._prepared(batch).session
    error = ctypes.create_string_buffer(library.ERROR_BYTES)
    run = ctypes.cast(library._library().sparsetrain_run, ctypes.c_void_p)
    ends = [library._pointers([*arrays.values()]) for arrays in (given, net._empty(batch))]
    for calls in (1, 50):
        print(counted(run, session._handle, *ends, error, calls), error.value.decode())
"""

GROWTH = """
import gc, sys, tracemalloc
import numpy as np
import sparsetrain_runtime

def resident():
    return next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("VmRSS"))

net = sparsetrain_runtime.load(sys.argv[1], 2, tune=False)
shapes = {n: [8 if d is None else d for d in s.shape] for n, s in net.inputs.items()}
given = {n: np.ones(shape, net.inputs[n].dtype) for n, shape in shapes.items()}
tracemalloc.start()
for turn in range(6):
    for _ in range(100):
        net(given)
    gc.collect()
    print(tracemalloc.get_traced_memory()[0], resident())
"""


class Everything(nn.Module):
    """Tiles of products, pools, norms, attention, moves, a table."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 1), nn.SiLU(), nn.Conv2d(16, 8, 1))
        self.thin = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.words = nn.Embedding(10, 16)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Linear(16, 4)

    def forward(self, x, index):
        x = self.stem(x)
        x = self.norm(self.thin(self.body(x) + x))
        x = nn.functional.interpolate(nn.functional.max_pool2d(x, 3, 2), scale_factor=2)
        x = nn.functional.adaptive_avg_pool2d(x, 4).flatten(2)
        x = self.layer(torch.cat([x, self.words(index)], 1))
        return self.head(x.mean(1)).softmax(-1)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    torch.manual_seed(0)
    sample = (torch.randn(2, 3, 32, 32), torch.randint(10, (2, 5)))
    path = tmp_path_factory.mktemp("steady") / "net.st"
    return st.deploy(Everything().eval(), sample, path, tune=False)


def run(text, *args, **settings):
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, args)],
        env=os.environ | {"PYTHONPATH": str(RUNTIME)} | settings,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
def test_a_steady_call_allocates_nothing(net, tmp_path):
    counter = tmp_path / "counter.so"
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(counter), str(COUNTER), "-ldl"]
    subprocess.run(command, check=True)
    found = run(CALLS, counter, net, LD_PRELOAD=str(counter))
    first, steady = found[::2], found[1::2]
    assert all(int(n) > 0 for n in first)  # operands find their places
    assert [int(n) for n in steady] == [0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_calls_leave_nothing_behind(net):
    traced, resident = zip(*(map(int, line.split()) for line in run(GROWTH, net)), strict=True)
    assert min(b - a for a, b in pairwise(traced)) < 100 * 16  # bytes: no object is that small
    assert min(b - a for a, b in pairwise(resident)) < 4  # KB: a page
