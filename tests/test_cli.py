import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from sparsetrain import cli
from sparsetrain.training import runs
from sparsetrain.training.interrupt import Stopped
from sparsetrain_runtime import load

QUICK = ["--model=alexnet", "--width=0.05", "--epochs=1"]


@pytest.fixture
def call(monkeypatch, capfd):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sparsetrain", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capfd.readouterr()

    return run


def test_train_writes_its_folder_and_resumes(call, tmp_path):
    out = tmp_path / "run"
    code, text, _ = call("train", *QUICK, "--epochs=2", "--out", out, "--note", "a remark")
    assert code == 0
    assert "epoch   2/2" in text
    assert "a remark" in text
    assert sorted(p.name for p in out.iterdir()) == [
        *("checkpoint.safetensors", "config.json", "metrics.jsonl", "report.html")
    ]
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "a remark" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # it needs nothing from elsewhere
    code, text, _ = call("train", "--resume", out)
    assert code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "vg16"], "no model is called 'vg16'; did you mean 'vgg16'?"),
        (["--method", "snup"], "no method is called 'snup'; did you mean 'snip'?"),
        (["--data", "cifer10"], "did you mean 'cifar10'?"),
        (["--data", "cifar10"], "--data-dir"),
        (["--method", "3sp", "--exclude", "feature.0"], "did you mean 'features.0'?"),
        (["--method", "drive", "--exclude", "feature.0"], "did you mean 'features.0'?"),
        (["--sparsity", "1.5"], "sparsity must be the share removed, in [0, 1), got 1.5"),
        (["--model", "no_such_module:make"], "cannot be imported"),
        (["--resume", "/nonexistent"], "/nonexistent holds no run"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(call, tmp_path, words, message):
    out = [] if "--resume" in words else ["--out", tmp_path / "run"]
    code, _, errors = call("train", *words, *out)
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert message in errors
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(call, tmp_path):
    assert call("train", *QUICK, "--out", tmp_path)[0] == 0
    code, _, errors = call("train", *QUICK, "--out", tmp_path)
    assert code == 2
    assert "holds a run; go on with --resume" in errors


def test_resume_keeps_to_the_run(call, tmp_path):
    call("train", *QUICK, "--out", tmp_path)
    code, _, errors = call("train", "--resume", tmp_path, "--lr", "0.5")
    assert code == 2
    assert "was trained with lr=0.05, not 0.5" in errors
    (tmp_path / runs.CHECKPOINT).write_bytes(b"half")
    code, _, errors = call("train", "--resume", tmp_path)
    assert code == 2
    assert "is damaged" in errors


def test_the_code_that_a_folder_names_is_run_only_if_the_command_names_it(call, tmp_path):
    code = (
        "from pathlib import Path\n"
        "from torch import nn\n"
        "Path(__file__).with_name('ran').touch()\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
    )
    (tmp_path / "own.py").write_text(code)
    model, run = f"{tmp_path}/own.py:make", tmp_path / "run"
    assert call("train", "--model", model, "--epochs=1", "--no-channels-last", "--out", run)[0] == 0
    (tmp_path / "ran").unlink()
    sys.modules.pop("own")
    code, _, errors = call("train", "--resume", run)
    assert code == 2
    assert f"say so: sparsetrain train --resume {run} --model {model}" in errors
    assert not (tmp_path / "ran").exists()
    assert call("train", "--resume", run, "--model", model)[0] == 0
    assert (tmp_path / "ran").exists()


def test_a_network_that_does_not_fit_is_said_before_training(call, tmp_path):
    source = tmp_path / "few.py"
    source.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 7))\n"
    )
    code, _, errors = call("train", f"--model={source}:make", "--out", tmp_path / "run")
    assert code == 2
    assert "few.py:make must return [2, 10] for 2 images" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "--epochs", "many"], 2, "Invalid value for '--epochs'"),
        (["train", "--out", __file__], 2, "test_cli.py: File exists"),
        (["nothing"], 2, "No such command 'nothing'"),
        (["bench", "select", "--threads", "1000000"], 2, "Invalid value for '--threads'"),
        (["train", "--threads", "1000000"], 2, "threads must be 1 to 1024"),
    ],
)
def test_misuse_is_one_line(call, words, code, message):
    found, _, errors = call(*words)
    assert found == code
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 1, "there is too little memory: MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), 1, "too little memory"),
        (RuntimeError("can't start new thread"), 1, "there is too little memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "there is too little memory"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 1, "the disk is full: a/b"),
        (OSError(errno.EIO, "Input/output error", "a/b"), 1, "a/b: Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), 2, "a: Permission denied"),
        (ValueError("two\nlines, a bell \a and \x1b[2J"), 2, r"two lines, a bell \x07 and \x1b[2J"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Stopped(signal.SIGTERM), 143, "interrupted"),
    ],
    ids=repr,
)
def test_ends(call, monkeypatch, error, code, message):
    def load(*what, **how):
        raise error

    monkeypatch.setattr(cli.train, "load", load)
    found, _, errors = call("train", "--out", "/nonexistent" if code == 143 else "run")
    assert found == code
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_any_other_error_is_a_traceback(monkeypatch):
    monkeypatch.setattr(cli.train, "load", lambda *what, **how: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["sparsetrain", "train", "--out", "run"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_users_text_is_shown_as_it_is(call, tmp_path):
    note = "[red]$x_1$[/red] and $y$ :smile: 日本 \x1b[2J"
    code, text, errors = call("train", *QUICK, "--out", tmp_path / "run", "--note", note)
    assert (code, errors) == (0, "")
    shown = note.replace("\x1b", "\\x1b")
    assert shown in text
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "[red]$x_1$[/red] and $y$ :smile: 日本" in page


def test_output_is_utf_8_whatever_the_locale(tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff\xe9")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    words = ["train", *QUICK, "--out", str(odd), "--note", "größer, 日本"]
    done = subprocess.run(
        [sys.executable, "-m", "sparsetrain", *words],
        env=environment | {"PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "größer, 日本".encode() in done.stdout
    assert rb"\udcff\udce9" in done.stdout
    assert "größer, 日本".encode() in (odd / "report.html").read_bytes()


def test_a_users_model_from_a_file(call, tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    layers = nn.Linear(3072, 32), nn.ReLU(), nn.Linear(32, 10)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
        "def wrong():\n"
        "    return 3\n"
    )
    words = ["--epochs=1", "--method=3sp", "--no-channels-last", "--out", tmp_path / "run"]
    assert call("train", f"--model={source}:make", *words)[0] == 0
    code, _, errors = call("train", f"--model={source}:wrong", "--out", tmp_path / "other")
    assert code == 2
    assert "is int, not a torch.nn.Module" in errors


def test_demo_measures_and_reports(call, tmp_path):
    code, text, _ = call(
        "demo",
        "--model=alexnet",
        "--width=0.25",
        "--epochs=1",
        "--repeats=1",
        "--dense-epochs=0.3",
        "--prune-epochs=0.3",
        "--batch-size=128",
        "--flops=0.6",
        "--lr=0.01",
        "--rounds=3",
        "--note=a remark",
        "--out",
        tmp_path,
    )
    assert code == 0
    for words in ("test accuracy", "training step, 128", "one image, engine", "deployed", "remark"):
        assert words in text
    found = json.loads((tmp_path / "results.json").read_text())
    dense, structured, masked = (found["results"][n] for n in ("dense", "3SP", "DRIVE"))
    assert structured["flops"] <= 0.6 * dense["flops"]
    assert masked["parameters"] < 0.2 * dense["parameters"]  # what is not zero
    assert masked["disk_bytes"] < 0.5 * dense["disk_bytes"]
    assert masked["deployed_bytes"] < 0.3 * dense["deployed_bytes"]
    assert set(masked["inference_ms"]["128"]) == {"torch", "engine"}
    assert "ONNX Runtime" in dense["inference_ms"]["1"]
    assert load(tmp_path / "drive" / "net.st", 1, self_test=True).info["classes"][3] == "3"
    assert all(r["train_ms"] > 0 < r["peak_bytes"] for r in found["results"].values())
    assert (tmp_path / "report.html").read_text().count("<svg") == 3


def test_demo_of_a_users_model(call, tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    pass\n"
        "def make():\n"
        "    return Net(nn.Conv2d(3, 64, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10))\n"
    )
    code, text, errors = call(
        "demo",
        f"--model={tmp_path}/own.py:make",
        "--epochs=1",
        "--repeats=1",
        "--dense-epochs=0.2",
        "--prune-epochs=0.2",
        "--rounds=2",
        "--lr=0.01",
        "--out",
        tmp_path / "out",
    )
    assert (code, errors) == (0, "")
    assert "peak memory" in text


def test_demo_of_a_network_that_the_engine_has_not(call, tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return torch.special.i0(super().forward(x))\n"
        "def make():\n"
        "    return Net(nn.Conv2d(3, 64, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10))\n"
    )
    model = f"--model={tmp_path}/own.py:make"
    code, text, errors = call(
        *("demo", model, "--epochs=1", "--repeats=1", "--dense-epochs=0.2", "--prune-epochs=0.2"),
        *("--rounds=2", "--lr=0.01", "--out", tmp_path / "out"),
    )
    assert (code, errors) == (0, "")
    assert "128 images, torch" in text
    assert "engine" not in text.partition("Inference was measured in torch alone")[0]


def test_demo_checks_all_runs_before_the_first(call, tmp_path):
    code, text, errors = call("demo", *QUICK, "--rounds=99", "--out", tmp_path)
    assert code == 2
    assert "drive ends its last round in step" in errors
    assert "epoch" not in text


def test_doctor(call):
    code, text, _ = call("doctor", "--json")
    found = json.loads(text)
    assert code == 0
    assert found["topk_mask cpu"] == "ok"
    assert "torch" in found


def test_python_dash_m_and_help():
    done = subprocess.run(
        [sys.executable, "-m", "sparsetrain", "train", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--sparsity" in done.stdout
    assert "Example:" in done.stdout


def test_a_full_disk_is_one_line(call, monkeypatch, tmp_path):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(runs, "write_text", full)
    code, _, errors = call("train", *QUICK, "--out", tmp_path / "run")
    assert code == 1
    assert errors.startswith("sparsetrain: the disk is full: ")
    assert len(errors.splitlines()) == 1
