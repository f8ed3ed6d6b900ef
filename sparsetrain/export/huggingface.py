"""A Hugging Face folder: `config.json` with the widths of now, `model.safetensors` with the zeros.

For a model with `save_pretrained`, as a `PreTrainedModel`; its class's `from_pretrained` reads it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.export.agree import reason
from sparsetrain.export.copies import copied
from sparsetrain.export.program import silenced
from sparsetrain.shrink.pretrained import CONFIG, SAVE
from sparsetrain.support.files import write_together

WHO = "export_huggingface"
WEIGHTS = re.compile(r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


def export_huggingface(
    model: nn.Module,
    folder: str | Path,
    masks: Mapping[str, Tensor] | None = None,
    *,
    check: bool = True,
) -> None:
    """Write a model and its config; `type(model).from_pretrained(folder)` gives it back, dense.

    Weights that an earlier model left in the folder go, other files such as a tokenizer's stay.

    Args:
        masks: parameter name -> bool mask, true = kept; what they prune is 0 in the file. Sparse
            layers become dense ones with zeros.
        check: load the files and compare all tensors before they take their places.

    Raises:
        TypeError: `model` is no module, or a mask is not bool.
        ValueError: `model` has no `save_pretrained`, its config cannot say the widths that its
            layers have, a mask does not fit, or what is loaded again is another model.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{WHO}: {folder} is no folder")
    net: Any = copied(WHO, model, masks, packed=False)
    if not callable(getattr(net, SAVE, None)):
        raise ValueError(
            f"{WHO}: model must have save_pretrained, as a PreTrainedModel, got"
            f" {type(net).__name__}; sparsetrain.checkpoint.save_model keeps any model"
        )

    def write(part: Path) -> None:
        with silenced():
            net.save_pretrained(part)
        if check:
            _check(net, part)
        written.update(file.name for file in part.iterdir())

    written: set[str] = set()
    write_together(folder / f"{CONFIG}.json", write)
    for file in folder.iterdir():
        if WEIGHTS.fullmatch(file.name) and file.name not in written:
            file.unlink()


def _check(net: Any, folder: Path) -> None:
    """
    Raises:
        ValueError: what is loaded has other tensors, or cannot be loaded.
    """
    try:
        with silenced():
            again = type(net).from_pretrained(folder)
    except Exception as error:
        raise ValueError(f"{WHO}: it cannot be loaded again: {reason(error)}") from error
    ours, theirs = net.state_dict(), again.state_dict()
    for name in ours.keys() | theirs.keys():
        if not (name in ours and name in theirs and _same(ours[name], theirs[name])):
            raise ValueError(f"{WHO}: loaded again {name} is another tensor")


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return True
    equal = torch.equal(a.cpu().nan_to_num(), b.cpu().nan_to_num())
    return a.dtype == b.dtype and a.shape == b.shape and equal
