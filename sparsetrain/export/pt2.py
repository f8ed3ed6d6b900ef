"""`.pt2` files: a network's program as torch keeps it, and the same one compiled.

Sparse layers stay sparse in both, as operations of ours: who loads one imports sparsetrain first,
and needs neither the model's class nor its code. Neither file holds a pickle.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.export.agree import disagreement, reason
from sparsetrain.export.copies import copied
from sparsetrain.export.paths import ending
from sparsetrain.export.plain import named
from sparsetrain.export.program import Traced, silenced, traced
from sparsetrain.support.files import write_together

Masks = Mapping[str, Tensor]
Load = Callable[[Path], Callable[..., Any]]


def export_pt2(
    model: nn.Module,
    sample: Any,
    path: str | Path,
    masks: Masks | None = None,
    *,
    any_batch: bool = True,
    check: bool = True,
) -> None:
    """Write a network as torch.export has it; `torch.export.load(path).module()` gives it back.

    It computes as the model does in evaluation mode, on the device that the model is on, and
    returns tensors in tuples and dicts. The file that was there stays until the new one is whole.

    Args:
        sample: one input, or a tuple or dict of them, as the model takes it.
        masks: parameter name -> bool mask, true = kept; what they prune is 0 in the file. Sparse
            layers go by their own.
        any_batch: where the network allows, the first axis of inputs may have any length; else
            that of the sample.
        check: load the file and compare outputs with the model's before it takes its place.

    Raises:
        TypeError, ValueError: the model does not run on the sample, cannot be exported, or a mask
            does not fit it; or the file computes something else.
    """
    who, path = "export_pt2", ending("export_pt2", path, ".pt2")
    found = traced(who, copied(who, model, masks, packed=True), sample, any_batch)
    # A file would hold them as a pickle, and who loads it does not need them.
    found.program.example_inputs = None

    def write(folder: Path) -> None:
        with silenced():
            torch.export.save(found.program, folder / path.name)
        if check:
            _check(who, folder / path.name, found, _load)

    write_together(path, write)


def export_aotinductor(
    model: nn.Module,
    sample: Any,
    path: str | Path,
    masks: Masks | None = None,
    *,
    any_batch: bool = True,
    check: bool = True,
) -> None:
    """Compile a network by AOTInductor; `torch._inductor.aoti_load_package(path)` gives it back.

    The file holds machine code for machines like this one, and is loaded by the same release of
    torch. Arguments and errors are those of `export_pt2`, and a C++ compiler is needed.
    """
    who, path = "export_aotinductor", ending("export_aotinductor", path, ".pt2")
    found = traced(who, copied(who, model, masks, packed=True), sample, any_batch)

    def write(folder: Path) -> None:
        try:
            with silenced():
                torch._inductor.aoti_compile_and_package(
                    found.program, package_path=str(folder / path.name)
                )
        except Exception as error:
            raise ValueError(f"{who}: AOTInductor cannot compile it: {reason(error)}") from error
        if check:
            _check(who, folder / path.name, found, torch._inductor.aoti_load_package)

    write_together(path, write)


def _load(path: Path) -> Callable[..., Any]:
    return torch.export.load(path).module()


def _check(who: str, path: Path, found: Traced, load: Load) -> None:
    with silenced(), torch.no_grad():
        net = load(path)
        for case in found.cases:
            wrong = disagreement(named(net(*case.args, **case.kwargs)), case.outputs)
            if wrong:
                raise ValueError(f"{who}: loaded again it computes something else: {wrong}")
