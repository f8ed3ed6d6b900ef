"""A few of the changes of benchmarks/fuzz_networks.py: each is refused in one line, or computed."""

import importlib
import sys
from pathlib import Path

import pytest

from sparsetrain_runtime.file import read
from sparsetrain_runtime.program import KINDS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fuzz():
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("benchmarks.fuzz_networks")
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def folder(fuzz, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    importlib.import_module("benchmarks.fuzz_bases").write(folder)
    return folder


def test_every_kind_of_operation_is_changed(folder):
    programs = [read(path).header["program"] for path in folder.glob("*.st")]
    assert {op["kind"] for p in programs for op in p["ops"]} == set(KINDS)


@pytest.mark.parametrize("kind", ["words", "tensors", "header"])
def test_a_changed_network_is_refused_in_one_line_or_computed(fuzz, folder, kind):
    given = [fuzz.Base(path, n) for path in sorted(folder.glob("*.st")) for n in fuzz.BATCHES]
    found = [fuzz.KINDS[kind](given[i % len(given)], fuzz.Random(i)) for i in range(1000)]
    assert set(found) <= {"refused", "ran", "prepared", "loaded", "too large to prepare"}
    assert found.count("ran") > 20
    assert found.count("refused") > 400
