import random

import numpy as np
import torch

from sparsetrain import checkpoint
from sparsetrain.support.chance import random_stream, seed_all, set_shared_state, shared_state


def draws():
    return random.random(), random.gauss(0, 1), np.random.randn(3).tolist(), torch.rand(2).tolist()


def test_streams_of_equal_keys_are_equal():
    first, second, other = (
        torch.rand(4, generator=random_stream(*k)) for k in ((1, 2), (1, 2), (12,))
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_seed_is_of_all_generators():
    seed_all(2**40)
    first = draws()
    seed_all(2**40)
    assert draws() == first


def test_all_generators_go_on_from_a_file(tmp_path):
    seed_all(3)
    draws()  # leaves half of a pair of normal numbers behind in two of them
    np.random.randn()
    checkpoint.save(tmp_path / "state", shared_state(torch.device("cpu")))
    wanted = draws()
    seed_all(4)
    set_shared_state(checkpoint.load(tmp_path / "state"))
    assert draws() == wanted
