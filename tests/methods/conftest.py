"""Every method that masks weights, on one problem: test_pairings.py and test_resume.py run them."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from sparsetrain import methods
from sparsetrain.selection.patterns import NM, Block, Vector

STEPS = 12  # of a whole training
DRAWS = torch.Generator().manual_seed(0)
X, Y = torch.randn(32, 8, generator=DRAWS), torch.arange(32) % 4
BATCHES = [(X[:16], Y[:16]), (X[16:], Y[16:])]
METHODS = {
    "drive": lambda: methods.DRIVE(0.5, 2, rounds=3, interval=3),
    "acdc": lambda: methods.ACDC(0.75, STEPS, 0.1, 0.17, 0.17, 0.1),
    "fggp": lambda: methods.FGGP(0.5, STEPS, interval=2),
    "fggp from half": lambda: methods.FGGP(0.75, STEPS, 2, initial_sparsity=0.5, then="random"),
    "force": lambda: methods.FORCE(0.5, cross_entropy, BATCHES, rounds=3),
    "gmp": lambda: methods.GMP(0.5, STEPS, interval=2),
    "gmp late": lambda: methods.GMP(0.75, STEPS, 2, 3, initial_sparsity=0.25, allocation="erk"),
    "gmp blocks": lambda: methods.GMP(0.75, STEPS, 2, pattern=Block(2, 2), floor=0.1),
    "gmp vectors": lambda: methods.GMP(0.75, STEPS, 2, pattern=Vector(4)),
    "granet": lambda: methods.GraNet(0.75, STEPS, interval=2),
    "granet dense": lambda: methods.GraNet(0.75, STEPS, 2, initial_sparsity=0.0, skip_step=True),
    "grasp": lambda: methods.GraSP(0.5, cross_entropy, BATCHES),
    "gse": lambda: methods.GSE(0.75, STEPS, interval=2),
    "gse by layer": lambda: methods.GSE(
        0.75, STEPS, 2, scope="layer", pattern=Vector(4), subset=0.5
    ),
    "imp": lambda: methods.IMP(0.5, level_steps=4, levels=2),
    "imp, rewinding": lambda: methods.IMP(0.5, level_steps=5, rewind_step=3, allocation="erk"),
    "iter-snip": lambda: methods.IterSNIP(0.5, cross_entropy, BATCHES, rounds=3),
    "magnitude": lambda: methods.Magnitude(0.5),
    "magnitude 2:4, after training": lambda: methods.Magnitude(0.5, at=7, pattern=NM(2, 4)),
    "prospr": lambda: methods.ProsPr(0.5, cross_entropy, BATCHES),
    "random": lambda: methods.Random(0.5, pattern=Vector(4)),
    "rigl": lambda: methods.RigL(0.75, STEPS, interval=2),
    "rigl blocks": lambda: methods.RigL(0.75, STEPS, 2, pattern=Block(4, 1), allocation="uniform"),
    "set": lambda: methods.SET(0.75, STEPS, interval=2),
    "snip": lambda: methods.SNIP(0.5, cross_entropy, BATCHES),
    "sparsegpt": lambda: methods.SparseGPT(0.5, [X]),
    "sr-ste both ways": lambda: methods.SRSTE(pattern=NM(2, 4, transposable=True)),
    "sr-ste": lambda: methods.SRSTE(0.75, pattern=NM(1, 4)),
    "srigl": lambda: methods.SRigL(0.75, STEPS, interval=2),
    "str": lambda: methods.STR(0.75, STEPS, initial=-3.0),
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
