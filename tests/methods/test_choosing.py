"""Choices by data on two ranks, half of it on each: the same on both, and those of one process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsetrain import distributed
from sparsetrain.distributed import agree

WORKER = Path(__file__).with_name("choosing_worker.py")
NAMES = [
    *("snip", "snip, not wrapped", "grasp", "iter-snip", "force", "prospr", "prospr, momentum"),
    *("wanda", "sparsegpt", "experts", "taylor", "3sp"),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(WORKER)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen([*command, r, "2", str(folder)], **pipes) for r in "01"]
    said = [rank.communicate(timeout=240)[0] for rank in started]
    assert [rank.returncode for rank in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_ranks_choose_as_one_process_with_all_data_would(ranks, name):
    (first, wanted), (second, _) = ranks
    assert len(first[name]) == len(wanted[name]) > 0
    for mine, others, whole in zip(first[name], second[name], wanted[name], strict=True):
        assert torch.equal(mine, others)
        assert torch.equal(mine, whole)


def test_other_orders_of_blocks_are_refused_on_every_rank(ranks):
    assert {found["routed"] for found, _ in ranks} == {
        "Wanda: the ranks' batches reach the blocks in different orders; give all the same batches"
    }


def test_one_process_asks_nobody():
    tensor = torch.ones(3)
    distributed.mean_over_(distributed.ranks_of(torch.nn.Linear(2, 2), "SNIP"), [tensor])
    assert distributed.equal_over(None, 1)
    assert torch.equal(tensor, torch.ones(3))


def test_a_rank_that_is_alone_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(agree, "WAIT", agree.timedelta(milliseconds=50))
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    try:
        with pytest.raises(RuntimeError, match="SNIP: rank 0 chooses by its data, and the other"):
            distributed.ranks_of(torch.nn.Linear(2, 2), "SNIP")
    finally:
        monkeypatch.undo()
        torch.distributed.destroy_process_group()
