"""A network in one file, which runs without PyTorch: `sparsetrain_runtime.load`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from sparsetrain.engine.prepare import Prepared, prepared
from sparsetrain.selection.masks import Masks
from sparsetrain.support.files import write_atomically
from sparsetrain_runtime import file
from sparsetrain_runtime.check import to_json


def deploy(
    model: nn.Module,
    sample: Any,
    path: str | Path,
    masks: Masks | None = None,
    *,
    threads: int | None = None,
    tune: bool = True,
    batch: bool = True,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model as a file that `sparsetrain_runtime.load` runs, without PyTorch.

    The file is one of safetensors: the program as JSON in its header, weights each in its smallest
    form, checksums, the choice of forms that was fastest here, and the sample's first item with
    the outputs that the model has for it. Nothing in it is code.

    Args:
        model: dense, masked, sparsified or shrunk; it is left as it is.
        sample: one input, or a tuple or dict of them.
        path: of the file; one that is there is replaced when the new one is whole.
        masks: parameter name -> bool mask, as a method's `masks`.
        threads: with which forms are measured; None: as many as torch uses now.
        tune: measure which form of each weight is the fastest on this machine.
        batch: whether other batches than the sample's will be given.
        info: JSON of your own to keep with it, such as {"classes": [...], "mean": ..., "std": ...}.

    Returns:
        The path.

    Raises:
        Undeployable: the model has operations that the engine does not; no file is written.
        ValueError: the model does not run on the sample, or a mask fits no parameter.
        OSError: the file cannot be written.
    """
    count = torch.get_num_threads() if threads is None else threads
    found = prepared(model, sample, masks, count, tune, batch)
    tensors = {**found.tensors, **found.sample}
    metadata = {
        "format": file.FORMAT,
        "version": str(file.VERSION),
        "network": json.dumps(_header(found, tensors, dict(info or {}))),
    }
    write_atomically(Path(path), lambda part: save_file(tensors, part, metadata))
    return Path(path)


def _header(found: Prepared, tensors: Mapping[str, np.ndarray], info: dict) -> dict[str, Any]:
    return {
        "program": to_json(found.program),
        "checksums": {name: file.checksum(t) for name, t in tensors.items()},
        "tuned": {
            "machine": found.machine,
            "choices": {str(i): v for i, v in found.choices.items()},
        },
        "info": info,
        "made_by": {"torch": torch.__version__},
    }
