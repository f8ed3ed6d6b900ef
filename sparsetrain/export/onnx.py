"""ONNX: what ONNX Runtime, OpenVINO, TensorRT and others run. Pruned weights are zeros in it."""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.export.agree import disagreement, reason
from sparsetrain.export.copies import copied
from sparsetrain.export.paths import ending
from sparsetrain.export.program import Case, Traced, silenced, traced
from sparsetrain.support.files import write_together

WHO = "export_onnx"
LARGE = 3 * 2**29  # bytes of weights beyond which they lie beside: protobuf ends at 2 GB
BATCH = "batch"


def export_onnx(
    model: nn.Module,
    sample: Any,
    path: str | Path,
    masks: Mapping[str, Tensor] | None = None,
    *,
    any_batch: bool = True,
    check: bool = True,
) -> None:
    """Write a network as ONNX: a shrunk one as it is, a masked or sparsified one with its zeros.

    Outputs are called by their keys in what the model returns, or "output", "output_0"; inputs by
    the names of its parameters. More than 1.5 GB of weights lie beside, in `path` + ".data". The
    file that was there stays until the new one is whole. Needs the extra `onnx`.

    Args:
        sample: one input, or a tuple or dict of them, as the model takes it.
        masks: parameter name -> bool mask, true = kept; what they prune is 0 in the file.
        any_batch: where the network allows, the first axis of inputs may have any length; else
            that of the sample.
        check: compare outputs with the model's, in ONNX Runtime if that is installed, before the
            file takes its place.

    Raises:
        ImportError: onnxscript is not installed.
        TypeError, ValueError: the model does not run on the sample, cannot be exported, or a mask
            does not fit it; or the file computes something else.
    """
    path = ending(WHO, path, ".onnx")
    _check_installed()
    net = copied(WHO, model, masks, packed=False)
    found = traced(WHO, net, sample, any_batch)
    program = _converted(found)

    def write(folder: Path) -> None:
        with silenced():
            program.save(folder / path.name, external_data=_bytes(program) > LARGE)
        if check:
            _check(folder / path.name, found.cases)

    write_together(path, write)


def _check_installed() -> None:
    if importlib.util.find_spec("onnxscript") is None:
        raise ImportError(f"{WHO} needs onnxscript: pip install 'sparsetrain[onnx]'")


def _converted(found: Traced) -> Any:
    """torch's ONNX program, with names for inputs, outputs and the batch."""
    inputs = found.input_names
    # In ONNX a name is one value, also where a model calls an output as it calls an input.
    outputs = [f"{name}_" if name in inputs else name for name in found.cases[0].outputs]
    with silenced():
        try:
            program: Any = torch.onnx.export(
                found.program, dynamo=True, verbose=False, output_names=outputs
            )
        except Exception as error:
            why = reason(error.__cause__ or error)  # around it stands advice of torch's
            raise ValueError(f"{WHO}: torch.onnx cannot take it: {why}") from error
    graph = program.model.graph
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = name
    if found.batch is not None:
        made = (value for node in graph for value in node.outputs)
        for value in (*graph.inputs, *graph.outputs, *made):
            _rename_axis(value, found.batch)
    return program


def _rename_axis(value: Any, batch: str) -> None:
    for axis, size in enumerate(value.shape or ()):
        if re.search(rf"\b{batch}\b", str(size)):
            value.shape[axis] = re.sub(rf"\b{batch}\b", BATCH, str(size))


def _bytes(program: Any) -> int:
    values = program.model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)


def _check(path: Path, cases: tuple[Case, ...]) -> None:
    """
    Raises:
        ValueError: ONNX Runtime, where it is installed, computes something else.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for case in cases:
            names = (given.name for given in session.get_inputs())
            tensors = (t.detach().cpu().numpy() for t in case.tensors)
            outputs = session.run(None, dict(zip(names, tensors, strict=True)))
            found = dict(zip(case.outputs, map(torch.from_numpy, outputs), strict=True))
            if wrong := disagreement(found, case.outputs):
                raise ValueError(f"it computes something else: {wrong}")
    except Exception as error:
        raise ValueError(
            f"{WHO}: checked in ONNX Runtime: {reason(error)}; check=False writes it all the same"
        ) from error
