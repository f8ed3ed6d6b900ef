"""A shrunk network in a file, and loaded in a fresh process: does it compute the same?"""

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import fx, nn

from benchmarks.coverage_check import distance, line_of, outputs
from benchmarks.coverage_models import Case, build
from sparsetrain.checkpoint import load_graph, load_model, save_model

EQUAL, MODEL, WANTED = "equal", "model.st", "wanted.pt"


def save(folder: Path, small: nn.Module, case: Case) -> str | None:
    """What went wrong, or nothing."""
    try:
        save_model(folder / MODEL, small, sample=case.sample)
    except Exception as error:
        return line_of(error)
    torch.save(
        (case.sample, outputs(small, case), isinstance(small, fx.GraphModule)), folder / WANTED
    )
    return None


def loaded(family: str, name: str, folder: Path) -> str:
    """EQUAL, or what is otherwise; in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
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
        return line_of(error).replace(f"{folder}/", "")
    if [t.shape for t in found] != [t.shape for t in wanted]:
        return "the outputs have other shapes"
    error = distance(wanted, found)
    return EQUAL if error <= 1e-6 else f"the outputs are off by {error:.1e}"
