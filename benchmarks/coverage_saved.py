"""A shrunk network in a file, and loaded in a fresh process: does it compute the same?

python -m benchmarks.coverage_saved FAMILY NAME FOLDER    # the fresh process, by coverage_one.py
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import fx, nn

from benchmarks.coverage_check import distance, line_of, outputs
from benchmarks.coverage_models import Case, build
from sparsetrain.checkpoint import load_graph, load_model, save_model

PATIENCE = 120  # seconds
EQUAL, MODEL, WANTED = "equal", "model.st", "wanted.pt"


def saved_and_loaded(family: str, name: str, small: nn.Module, case: Case) -> str:
    """EQUAL, or what is otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            save_model(Path(folder) / MODEL, small, sample=case.sample)
        except Exception as error:
            return line_of(error)
        graph = isinstance(small, fx.GraphModule)
        torch.save((case.sample, outputs(small, case), graph), Path(folder) / WANTED)
        command = [sys.executable, "-m", "benchmarks.coverage_saved", family, name, folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return f"stopped after {PATIENCE} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def loaded(family: str, name: str, folder: Path) -> str:
    case = build(family, name)
    model = case.model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)  # what is equal in the end comes from the file
    sample, wanted, graph = torch.load(folder / WANTED, weights_only=False)
    try:
        if graph:
            model = load_graph(folder / MODEL, model, sample)
        else:
            load_model(folder / MODEL, model)
        found = outputs(model, replace(case, sample=sample))
    except Exception as error:
        return line_of(error)
    if [t.shape for t in found] != [t.shape for t in wanted]:
        return "the outputs have other shapes"
    error = distance(wanted, found)
    return EQUAL if error <= 1e-6 else f"the outputs are off by {error:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("family")
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(loaded(args.family, args.name, args.folder))


if __name__ == "__main__":
    main()
