"""Every method that masks weights, on one problem: test_pairings.py and test_resume.py run them."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from sparsetrain import methods
from sparsetrain.patterns import NM, Vector

STEPS = 12  # of a whole training
DRAWS = torch.Generator().manual_seed(0)
X, Y = torch.randn(32, 8, generator=DRAWS), torch.arange(32) % 4
BATCHES = [(X[:16], Y[:16]), (X[16:], Y[16:])]
METHODS = {
    "drive": lambda: methods.DRIVE(0.5, 2, rounds=3, interval=3),
    "fggp": lambda: methods.FGGP(0.5, STEPS, interval=2),
    "force": lambda: methods.FORCE(0.5, cross_entropy, BATCHES, rounds=3),
    "gmp": lambda: methods.GMP(0.5, STEPS, interval=2),
    "grasp": lambda: methods.GraSP(0.5, cross_entropy, BATCHES),
    "imp": lambda: methods.IMP(0.5, level_steps=4, levels=2),
    "imp, rewinding": lambda: methods.IMP(0.5, level_steps=5, rewind_step=3, allocation="erk"),
    "iter-snip": lambda: methods.IterSNIP(0.5, cross_entropy, BATCHES, rounds=3),
    "magnitude": lambda: methods.Magnitude(0.5),
    "magnitude 2:4, after training": lambda: methods.Magnitude(0.5, at=7, pattern=NM(2, 4)),
    "prospr": lambda: methods.ProsPr(0.5, cross_entropy, BATCHES),
    "random": lambda: methods.Random(0.5, pattern=Vector(4)),
    "snip": lambda: methods.SNIP(0.5, cross_entropy, BATCHES),
    "sparsegpt": lambda: methods.SparseGPT(0.5, [X]),
    "synflow": lambda: methods.SynFlow(0.5, X, rounds=5),
    "wanda": lambda: methods.Wanda(0.5, [X]),
}


@pytest.fixture(params=METHODS.values(), ids=METHODS)
def make(request):
    """Makes a method whose schedule fits into 12 steps on `data`."""
    return request.param


@pytest.fixture
def data():
    return X, Y


@pytest.fixture(autouse=True)
def one_thread():
    """Problems this small only lose time to several, much of it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
