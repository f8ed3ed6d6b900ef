"""Sharded selection on 2 and 4 processes over gloo; each case runs on all ranks of one start."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsetrain.distributed import sharded_topk_mask

WORKER = Path(__file__).with_name("sharded_worker.py")


@pytest.fixture(scope="module", params=[2, 4], ids=lambda world: f"{world} ranks")
def results(request, tmp_path_factory):
    """[rank][case] -> (found, wanted)."""
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(WORKER)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    said = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(said)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def check(results, case, least):
    """Whether each rank's masks are those of one process, in all cases of a name."""
    for rank in results:
        chosen = {name: pair for name, pair in rank.items() if name.startswith(case)}
        assert len(chosen) >= least
        for name, (found, wanted) in chosen.items():
            assert len(found) == len(wanted), name
            assert all(map(torch.equal, found, wanted)), name


def test_uneven_and_empty_shards_with_ties_across_ranks(results):
    check(results, "uneven", 32)


def test_other_dtypes(results):
    check(results, "dtype", 3)


def test_replicas(results):
    check(results, "replicas", 1)


def test_ranks_without_tensors(results):
    check(results, "one rank", 2)


def test_dtensors(results):
    check(results, "dtensors", 2)


EVERYWHERE = {
    "nan": r"ValueError: sharded_topk_mask: score of 'layer3' on rank {last} is NaN"
    " (2 NaN entries on that rank)",
    "nan k=0": "ValueError: sharded_topk_mask: score of tensor 3 on rank {last} is NaN"
    " (2 NaN entries on that rank)",
    "k": "ValueError: sharded_topk_mask: need 0 <= k <= 3594 scores, got k=3595",
    "k differs": "ValueError: sharded_topk_mask: k is 5 on rank 1, 6 on rank 0",
    "score": "ValueError: sharded_topk_mask: score must be one of magnitude, snip, gradient,"
    " blend, got 'l1'",
    "grads": "ValueError: sharded_topk_mask: 6 weights, but 0 grads",
    "pieces": "ValueError: sharded_topk_mask: 6 weights, but 5 pieces",
}


@pytest.mark.parametrize("case", EVERYWHERE)
def test_bad_input_is_an_error_on_all_ranks(case, results):
    wanted = EVERYWHERE[case].format(last=len(results) - 1)
    assert [rank[f"error {case}"][0] for rank in results] == [wanted] * len(results)


def test_what_is_wrong_on_one_rank_ends_the_others(results):
    *others, last = [rank["error dtype"][0] for rank in results]
    wanted = "weight 0 must be fp32, fp64, bf16 or fp16, got torch.int32"
    assert last == f"TypeError: sharded_topk_mask: {wanted}"
    rank = len(others)
    for other in others:
        assert other == f"ValueError: sharded_topk_mask: rank {rank} was given wrong arguments"


def test_needs_a_process_group():
    with pytest.raises(ValueError, match="torch.distributed is not initialised"):
        sharded_topk_mask([torch.ones(3)], k=1)
