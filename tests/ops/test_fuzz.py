"""Some of the calls that `make fuzz` makes, and what it would say of a fault."""

import json
import subprocess
import sys

import pytest
import torch
from fuzz import run
from fuzz.sparse_recipes import RECIPES


def test_every_op_has_a_recipe():
    names = {
        name.split("::")[1]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("sparsetrain::")
    }
    assert names == set(RECIPES)


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_calls_pass_or_are_refused(first):
    ends = {seed: run.made(seed) for seed in range(first, first + 50)}
    assert {seed: end for seed, end in ends.items() if end not in ("passed", "refused")} == {}
    assert set(ends.values()) == {"passed", "refused"}


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("", ""),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("import os; os._exit(3)", "exit 3"),
        ("import time; time.sleep(60)", "hangs for 0.1 seconds"),
    ],
)
def test_a_process_that_ends_is_told(code, end, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PATIENCE", 5 if end != "hangs for 0.1 seconds" else 0.1)
    place = tmp_path / "place"
    place.write_bytes(run.PLACE.pack(0, 0, 0, 0))
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        assert run.watched(child, place) == end


def test_a_call_is_made_from_its_seed_alone():
    name, arguments, _ = run.call(7)
    again, others, _ = run.call(7)
    assert name == again
    assert run._shown(arguments) == run._shown(others)


def test_the_file_of_counts_adds_up(tmp_path):
    library = sys.modules["sparsetrain._C"].__file__
    for seed in ("0", "40"):
        options = ["--library", library, "--json", str(tmp_path / "counts"), "--seed", seed]
        subprocess.run([sys.executable, run.__file__, "--calls", "40", *options], check=True)
    found = json.loads((tmp_path / "counts").read_text())
    assert [r["first seed"] for r in found["runs"]] == [0, 40]
    assert found["all"]["calls"] == 80
    assert found["all"]["passed"] + found["all"]["refused"] == 80
    assert found["all"]["died"] == found["all"]["hung"] == found["all"]["wrong"] == 0
