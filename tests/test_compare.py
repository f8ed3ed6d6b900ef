import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sparsetrain import checkpoint, cli
from sparsetrain.data import load
from sparsetrain.methods import Method
from sparsetrain.selection.patterns import NM, Block, Channel, Unstructured, Vector, parse_pattern
from sparsetrain.selection.schedules import learning_rate
from sparsetrain.support import plots
from sparsetrain.training import catalog, runs
from sparsetrain.training.assembly import ARGUMENTS, GIVEN, Setting, build_method
from sparsetrain.training.catalog import FOLLOWS, METHODS, parse_options
from sparsetrain.training.compare import Grid, compare, report
from sparsetrain.training.config import Config
from sparsetrain.training.train import train

TINY = Config(
    model=f"{Path(__file__).parent / 'compare_model.py'}:make",
    batch_size=256,
    epochs=2,
    dense_epochs=0.5,
    prune_epochs=0.5,
    rounds=2,
    threads=1,
    channels_last=False,
    note="a remark",
)
QUIET = Console(quiet=True)


def grid(config=TINY, methods=("dense", "3sp", "drive"), sparsity=(0.5, 0.9), seeds=2):
    return Grid(config, methods, sparsity, (0.5,), seeds)


def command(out, *more, methods="dense,drive", config=TINY):
    asked = vars(config).items()
    options = [
        f"--{n.replace('_', '-')}={v}"
        for n, v in asked
        if v != getattr(Config(), n) and not isinstance(v, bool)
    ]
    words = ["compare", "--no-channels-last", "--out", str(out), "--methods", methods]
    words += ["--sparsity=0.5", "--seeds=2"]
    return [sys.executable, "-m", "sparsetrain", *words, *options, *more]


def results(out):
    return {r["cell"]: r for r in report.read(out)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("grid")
    assert compare(grid(), out, QUIET)
    return out


def test_a_grid_has_a_cell_for_each_method_amount_and_seed(finished):
    assert list(grid().configs) == [
        *("dense-seed0", "3sp-0.5-seed0", "drive-0.5-seed0", "drive-0.9-seed0"),
        *("dense-seed1", "3sp-0.5-seed1", "drive-0.5-seed1", "drive-0.9-seed1"),
    ]
    found = results(finished)
    assert found.keys() == set(grid().configs)
    assert found["drive-0.9-seed1"]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert found["dense-seed0"]["sparsity"] == 0
    assert found["drive-0.9-seed0"]["seconds"] > found["drive-0.9-seed0"]["pruning_seconds"] > 0
    assert found["drive-0.5-seed0"]["count"] == "prunable"
    assert not list(finished.glob("cells/*/checkpoint*"))
    assert not list(finished.glob("cells/*/lock"))


def test_a_cell_is_an_ordinary_run(finished):
    run = train(replace(TINY, method="drive", sparsity=0.9, seed=1))
    found = results(finished)["drive-0.9-seed1"]
    assert found["test_accuracy"] == run.history[-1]["test_accuracy"]
    assert found["best_test_accuracy"] == max(r["test_accuracy"] for r in run.history)
    assert found["train_flops"] == sum(r["train_flops"] for r in run.history)


def test_training_flops_are_three_forward_passes_of_what_is_live(finished):
    found, images = results(finished), len(load("digits").train)
    dense = 3 * 2 * (3072 * 16 + 16 * 10) * images
    assert found["dense-seed0"]["train_flops"] == 2 * dense
    # drive's rounds are in epoch 1, after its start
    drive = found["drive-0.9-seed0"]["train_flops"]
    assert drive == pytest.approx(1.1 * dense, rel=1e-4)


def test_report_has_table_files_and_pictures(finished):
    with (finished / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["cell"] for r in rows][:3] == ["dense-seed0", "dense-seed1", "3sp-0.5-seed0"]
    assert rows[-1]["asked_sparsity"] == "0.9"
    saved = json.loads((finished / "results.json").read_text())
    first = next(s for s in saved["summary"] if s["method"] == "dense")
    accuracy = torch.tensor([float(r["test_accuracy"]) for r in rows[:2]], dtype=torch.float64)
    assert first["mean"]["test_accuracy"] == pytest.approx(accuracy.mean().item())
    assert first["std"]["test_accuracy"] == pytest.approx(accuracy.std().item())
    page = (finished / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "a remark" in page
    assert "prunable" in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize("width", [50, 80])
def test_the_table_fits_a_narrow_terminal(width, finished, capsys):
    report.write(finished, ("drive", "dense"), Console(width=width, force_terminal=False))
    lines = capsys.readouterr().out.splitlines()
    rule = next(i for i, line in enumerate(lines) if "──" in line)
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[rule + 1 : rule + 5]]
    assert [row[0] for row in rows] == ["drive 50%", "drive 90%", "dense", "3sp 50%"]
    assert [row[2:4] for row in rows[:3]] == [["2", "50.00"], ["2", "90.00"], ["2", "0.00"]]
    assert [len(row) for row in rows] == [4 if width == 50 else 7] * 4
    summary = json.loads((finished / "results.json").read_text())["summary"][0]
    assert float(rows[0][1].split("±")[0]) == round(100 * summary["mean"]["test_accuracy"], 2)


def test_what_is_finished_is_kept_and_a_killed_cell_goes_on(finished, tmp_path):
    long = replace(TINY, epochs=15, checkpoint_every=3)
    process = subprocess.Popen(command(tmp_path, config=long), stdout=subprocess.DEVNULL)
    second = tmp_path / "cells" / "drive-0.5-seed0" / runs.CHECKPOINT
    while process.poll() is None and not second.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [first] = tmp_path.glob("cells/*/result.json")
    before = first.stat().st_mtime_ns
    state = checkpoint.load(second)
    assert (state["epoch"], state["step"]) != (0, 0)
    assert compare(grid(long, ("dense", "drive"), (0.5,), 1), tmp_path, QUIET)
    assert first.stat().st_mtime_ns == before
    whole = train(replace(long, method="drive", sparsity=0.5))
    found = results(tmp_path)["drive-0.5-seed0"]
    assert found["test_accuracy"] == whole.history[-1]["test_accuracy"]
    lines = (second.parent / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["test_loss"] for line in lines]
    assert losses == [record["test_loss"] for record in whole.history]


def test_ctrl_c_leaves_checkpoints(tmp_path):
    def press():
        while len(list(tmp_path.glob(f"cells/*/{runs.CHECKPOINT}"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        compare(grid(replace(TINY, epochs=4000, threads=2), ("dense",)), tmp_path, QUIET, jobs=2)
    for path in tmp_path.glob(f"cells/*/{runs.CHECKPOINT}"):
        assert checkpoint.load(path)["epoch"] > 0


def test_processes_share_the_cells(tmp_path, monkeypatch):
    # Started by hand as torchrun would; rank 0 is this process.
    long = replace(TINY, epochs=30)
    ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    other = subprocess.Popen(command(tmp_path, config=long), env=os.environ | ranks | {"RANK": "1"})
    while not list(tmp_path.glob("cells/*/lock")):
        assert other.poll() is None
        time.sleep(0.02)
    for name, value in (ranks | {"RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    assert compare(grid(long, ("dense", "drive"), (0.5,)), tmp_path, QUIET)
    assert other.wait(timeout=60) == 0
    assert len(results(tmp_path)) == 4
    assert (tmp_path / "report.html").exists()
    with pytest.raises(ValueError, match="torchrun starts the processes already"):
        compare(grid(), tmp_path, QUIET, jobs=2)


def test_jobs_share_the_cells_and_the_threads(tmp_path, capfd):
    assert compare(
        replace(grid(), config=replace(TINY, threads=2)), tmp_path, Console(width=60), jobs=2
    )
    found = results(tmp_path)
    assert found.keys() == set(grid().configs)
    assert {r["machine"]["threads"] for r in found.values()} == {1}
    assert capfd.readouterr().out.count("test acc ") >= 8


def test_a_failed_cell_is_a_result_and_tried_again(tmp_path):
    wild = replace(TINY, lr=1e30, epochs=1)
    assert not compare(grid(wild, ("dense", "drive"), (0.5,), 1), tmp_path, QUIET)
    found = results(tmp_path)
    assert all("the loss is" in r["error"] for r in found.values())
    assert "dense-seed0 failed: the loss is" in (tmp_path / "report.html").read_text()
    folder = tmp_path / "cells" / "dense-seed0"
    before = (folder / "result.json").stat().st_mtime_ns
    assert not compare(grid(wild, ("dense",), (0.5,), 1), tmp_path, QUIET)
    assert (folder / "result.json").stat().st_mtime_ns > before


def test_exit_codes(finished, tmp_path, monkeypatch, capfd):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["sparsetrain", *words])
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code, capfd.readouterr().err
        return 0, capfd.readouterr().err

    assert call("compare", "--report-only", "--out", str(finished)) == (0, "")
    wild = command(tmp_path, "--seeds=1", config=replace(TINY, lr=1e30, epochs=1), methods="dense")
    why = f"sparsetrain: some cells failed; {tmp_path / 'report.html'} says why\n"
    assert call(*wild[3:]) == (1, why)
    wanted = "sparsetrain: --sparsity needs numbers separated by commas, got '0.9;0.5'\n"
    assert call("compare", "--sparsity=0.9;0.5") == (2, wanted)


def test_another_config_in_the_same_folder(finished):
    with pytest.raises(ValueError, match=r"was run with lr=0.05, not 0.1$"):
        compare(grid(replace(TINY, lr=0.1)), finished, QUIET)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid(methods=("driv",)), "no method is called 'driv'; did you mean 'drive'?"),
        (lambda: grid(sparsity=(0.9, 1.0)), r"sparsity must be the share removed"),
        (lambda: grid(sparsity=(0.9, 0.9)), "sparsity names something twice"),
        (lambda: grid(methods=()), "methods is empty"),
        (lambda: grid(seeds=0), "seeds must be 1 or more, got 0"),
        (lambda: compare(grid(replace(TINY, rounds=90)), Path("x"), QUIET), "drive ends its last"),
        (lambda: report.write(Path("/nonexistent"), (), QUIET), "holds no result of compare yet"),
    ],
)
def test_bad_grids(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_patterns_by_name():
    assert [parse_pattern(t) for t in ("unstructured", "vector:4", "nm:2:4", "block:4:1")] == [
        *(Unstructured(), Vector(4), NM(2, 4), Block(4, 1))
    ]
    assert parse_pattern("channel") == Channel()
    for text, message in [
        ("vektor:4", "no pattern is called 'vektor'; did you mean 'vector'?"),
        ("nm:2", "pattern 'nm:2' is not of the form nm:N:M, with whole numbers"),
        ("vector:0", "Vector: need v >= 1, got v=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Config(pattern=text)


def test_options_of_a_method_are_typed_by_its_fields():
    found = parse_options("drive", "batches=3, alpha=2, normalise=max, 3sp.reinit=fresh")
    assert found == {"batches": 3, "alpha": 2.0, "normalise": "max"}
    assert [type(v) for v in found.values()] == [int, float, str]
    assert parse_options("3sp", "round_to=8")["round_to"] == 8
    assert parse_options("3sp", "round_to=none") == {"round_to": None}
    config = replace(TINY, method="drive", set="gamma=0", pattern="vector:4", allocation="erk")
    data = load("digits")
    method = build_method(config, data)
    assert (method.gamma, method.pattern, method.allocation) == (0.0, Vector(4), "erk")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alfa=2", "no option of drive is called 'alfa'; did you mean 'alpha'?"),
        ("batches=1.5", "drive.batches must be int, got '1.5'"),
        ("normalise=mean", "drive.normalise must be 'none' or 'sum' or 'max' or 'std', got 'mean'"),
        ("sparsity=0.5", "drive.sparsity cannot be set: it follows from the run's other options"),
        ("alpha", "set needs name=value,name=value, got 'alpha'"),
        ("drove.alpha=1", "no method is called 'drove'; did you mean 'drive'?"),
    ],
)
def test_bad_options(text, message):
    with pytest.raises(ValueError, match=message):
        Config(method="drive", set=text)


def test_what_follows_from_the_settings_is_given():
    assert GIVEN.keys() == FOLLOWS
    assert ARGUMENTS.keys() <= METHODS.keys()


@dataclass(frozen=True)
class Twice(Method):
    """Goes through the schedule twice."""

    @property
    def lengths(self):
        return Fraction(2)

    def schedule_step(self, step):
        return step % (4 * load("digits").train.steps(TINY.batch_size, train=True))


def test_a_setting_draws_other_batches_by_number():
    first, second = Setting(TINY, load("digits")).batches(2)
    assert len(first[1]) == len(second[1]) == TINY.batch_size
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], Setting(TINY, load("digits")).batch()[0])


def test_a_method_may_repeat_the_schedule(monkeypatch, tmp_path):
    monkeypatch.setitem(catalog.METHODS, "twice", Twice)
    config = replace(TINY, method="twice", schedule="step", epochs=4)
    run = train(config, tmp_path)
    assert run.finished
    assert [r["epoch"] for r in run.history] == [1, 2, 3, 4, 5, 6, 7, 8]
    steps = load("digits").train.steps(config.batch_size, train=True)
    rates = [
        config.lr * learning_rate("step", (e + 1) * steps - 1, 4 * steps) for e in (0, 1, 2, 3)
    ]
    assert [r["lr"] for r in run.history] == rates + rates
    assert compare(grid(replace(config, method="dense"), ("twice",), (0.5,), 1), tmp_path, QUIET)
    found = results(tmp_path)["twice-seed0"]
    assert found["epochs"] == 8
    lines = (tmp_path / "cells" / "twice-seed0" / "metrics.jsonl").read_text().splitlines()
    first = sum(json.loads(line)["seconds"] for line in lines[:4])
    assert found["pruning_seconds"] >= first


def test_many_lines_stay_apart():
    lines = {f"m{i}": [plots.Point(0.1, i), plots.Point(0.2, i)] for i in range(40)}
    figure = plots.comparison(lines, "title", "x", "y")
    drawn = [c.lines[0] for c in figure.axes[0].containers]
    styles = {(d.get_color(), d.get_marker(), d.get_linestyle()) for d in drawn}
    assert len(styles) == 40
    _, highest = figure.get_size_inches()
    assert highest > 9  # its legend needs the room
