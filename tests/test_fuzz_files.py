"""A few of the files that benchmarks/fuzz_files.py changes: none crashes its reader, none hangs."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COUNTS = {"config": 40, "plan": 30, "result": 40, "times": 25}


@pytest.fixture(scope="module")
def fuzz_files():
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("benchmarks.fuzz_files")
    sys.path.remove(str(ROOT))


@pytest.mark.parametrize(
    ("kind", "count"),
    [*COUNTS.items(), ("sparse model", 20), ("shrunk model", 20), ("run of drive", 6)],
)
def test_a_changed_file_loads_or_is_refused_in_one_line(fuzz_files, kind, count):
    found = fuzz_files.fuzz([kind], count, seed=99)[kind]
    assert set(found) <= {"loads", "refused", "not written"}
    assert sum(found.values()) - found.get("not written", 0) > count / 2


def test_what_must_not_be_is_noticed(fuzz_files, tmp_path):
    def crashes(path):
        raise KeyError("epoch")

    def two_lines(path):
        raise ValueError("one\ntwo")

    assert fuzz_files.outcome(crashes, tmp_path)[0] == "crashes"
    assert fuzz_files.outcome(two_lines, tmp_path)[0] == "crashes"
    assert fuzz_files.outcome(lambda path: None, tmp_path)[0] == "loads"
