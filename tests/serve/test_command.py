"""`sparsetrain serve`: what its words become, and how it refuses."""

import importlib.util
import sys

import pytest
from serve_fakes import Doubler

import sparsetrain_runtime
from sparsetrain import cli
from sparsetrain.engine import serve
from sparsetrain.engine.serve import Options
from sparsetrain.engine.serve.server import listening


@pytest.fixture
def call(monkeypatch, capfd):
    """Run the command line in this process, on fakes named as the files: (code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sparsetrain", "serve", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capfd.readouterr()

    def load(path, threads=None):
        network = Doubler(path.stem)
        network.threads = threads
        return network

    monkeypatch.setattr(sparsetrain_runtime, "load", load)
    return run


def test_its_words_become_options(call, monkeypatch):
    def run(networks, options, host, port, announce):
        seen.append(([(n.name, n.threads) for n in networks], options, host, port))
        announce("http://127.0.0.1:1")

    seen = []
    monkeypatch.setattr(serve, "run", run)
    limits = ["--max-batch=8", "--batch-deadline-ms=0.5", "--queue=9", "--max-body=2"]
    code, text, _ = call("a.st", "b.st", "--port=0", "--threads=2", *limits, "--timeout=3")
    options = Options(8, 0.5, 9, 2 * 2**20, 3.0)
    assert seen == [([("a", 2), ("b", 2)], options, "127.0.0.1", 0)]
    assert (code, text) == (0, "a, b: http://127.0.0.1:1\n")


def test_an_open_address_is_said(call, monkeypatch):
    monkeypatch.setattr(serve, "run", lambda *given: None)
    code, _, errors = call("a.st", "--host=0.0.0.0")
    assert code == 0
    line = "warning: 0.0.0.0 is open to whoever reaches it: nobody is asked who they are"
    assert errors == f"sparsetrain: {line}\n"


def test_without_the_extra_it_is_named(call, monkeypatch):
    found = importlib.util.find_spec
    hidden = {"uvicorn", "orjson"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in hidden else found(name)
    )
    code, _, errors = call("a.st")
    assert code == 2
    assert errors == (
        "sparsetrain: serve needs uvicorn, orjson: pip install 'sparsetrain[serve]'\n"
    )


@pytest.mark.parametrize("word", ["--timeout=nan", "--timeout=inf", "--batch-deadline-ms=nan"])
def test_times_are_finite(call, word):
    code, _, errors = call("a.st", word)
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert word.split("=")[0].strip("-").replace("-", "_") in errors.replace("-", "_")


def test_each_model_needs_its_own_name(call):
    code, _, errors = call("here/a.st", "there/a.st")
    assert (code, errors) == (
        2,
        "sparsetrain: serve: two models are called a; each needs its own name\n",
    )


def test_an_address_that_is_taken_is_said_in_one_line(call):
    with listening("127.0.0.1", 0) as taken:
        code, _, errors = call("a.st", "--port", taken.getsockname()[1])
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert "in use" in errors
