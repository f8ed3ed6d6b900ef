import json
import resource

import pytest
import torch
from rich.console import Console

from sparsetrain.bench import select
from sparsetrain.measure import timing


def test_a_table_a_file_and_a_plot(tmp_path, capsys):
    threads = torch.get_num_threads()
    found, picture = tmp_path / "select.json", tmp_path / "select.svg"
    select.run("cpu", [1, 2], 2, found, picture, Console(width=120), largest=1e5)
    assert torch.get_num_threads() == threads
    assert "np.partition" in capsys.readouterr().out
    assert "<svg" in picture.read_text()
    results = json.loads(found.read_text())["results"]
    assert {r["threads"] for r in results} == {1, 2}
    topk = [r["times_topk"] for r in results if r["contender"] == "torch.topk"]
    assert topk == [1.0, 1.0]


def test_the_problems_of_a_full_run():
    problems = {p.name: p for p in select.problems(1e8)}
    assert problems["VGG-19"].numel > 20_000_000
    assert problems["1e7 in 1000"].numel == problems["1e7"].numel == 10**7


def test_contenders_that_disagree_are_not_timed():
    right, wrong = torch.tensor([True, False]), torch.tensor([False, True])
    with pytest.raises(AssertionError, match="bench select: a rival's masks differ"):
        select._seconds_if_agreed({"ours": lambda: [right], "a rival": lambda: [wrong]})


def test_what_memory_does_not_hold_is_left_out(monkeypatch):
    monkeypatch.setattr(select, "free_bytes", lambda device: 14 * 1000)
    ones = [torch.randn(1000)]
    assert list(select.contenders_for(ones, ones, 10)) == [
        "topk_mask",
        "TopkMask, warm",
        "np.partition",
    ]


def test_memory_is_written_before_copies_into_it_are_timed(monkeypatch):
    touched, before = [], timing.seconds

    def seconds(thunk, device):
        touched.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        took = before(thunk, device)
        touched.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        return took

    monkeypatch.setattr(timing, "SCRUB_BYTES", 16 << 20)  # 4096 pages
    monkeypatch.setattr(timing, "seconds", seconds)
    speeds = timing.bandwidth("cpu", repeats=1)
    assert list(speeds) == ["read", "copy", "update"]
    assert min(speeds.values()) > 0
    faults = [after - first for first, after in zip(touched[::2], touched[1::2], strict=True)]
    assert max(faults) < 1000
