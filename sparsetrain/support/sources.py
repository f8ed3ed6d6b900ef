"""Networks that others wrote, by name: `torchvision.models:resnet50`, `net.py:make`."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sparsetrain.support.nearest import unknown

DECLARED: list[torch.library.Library] = []  # kept, since what one declares goes with it


def find_network(spec: str) -> nn.Module:
    """What `module:name` or `path/file.py:name` is, or returns.

    `timm:NAME` goes by timm's registry; a class of transformers is built from its own config's
    defaults, with random weights.

    Raises:
        ValueError: it cannot be imported or built.
    """
    where, _, name = spec.rpartition(":")
    try:
        make = _maker_without_library(where, name)
    except Exception as error:  # it may raise what it likes
        raise ValueError(f"model {spec!r} cannot be imported: {error}") from error
    try:
        model = make() if callable(make) and not isinstance(make, nn.Module) else make
    except Exception as error:
        raise ValueError(f"model {spec!r} cannot be built: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {spec!r} is {type(model).__name__}, not a torch.nn.Module")
    return model


def _maker_without_library(where: str, name: str) -> Any:
    """As `_maker`, also where torchvision's library does not load beside this torch.

    Networks, but for detection, need no more than that two of its operations are declared.
    """
    try:
        return _maker(where, name)
    except Exception as error:
        reasons: list[BaseException] = [error]
        while (cause := reasons[-1].__cause__ or reasons[-1].__context__) is not None:
            reasons.append(cause)
        declared = hasattr(torch.ops.torchvision, "nms")
        if declared or not any("torchvision::nms does not exist" in str(e) for e in reasons):
            raise
    DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
    for op in ("nms", "qnms"):
        DECLARED[-1].define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return _maker(where, name)


def _maker(where: str, name: str) -> Any:
    """What makes the network, or the network itself."""
    source = import_source(where)
    if not hasattr(source, name) and hasattr(source, "create_model"):  # timm's registry
        known = source.list_models()
        if name.partition(".")[0] not in known:
            raise unknown(f"network of {where}", name, known, listed=False)
        return lambda: source.create_model(name)
    if not hasattr(source, name):
        raise unknown(f"network of {where}", name, dir(source), listed=False)
    make = getattr(source, name)
    if isinstance(make, type) and getattr(make, "config_class", None) is not None:
        return lambda: make(make.config_class())  # type: ignore[call-arg]
    return make


def import_source(where: str) -> ModuleType:
    """A module by its name, the working directory included, or by its file."""
    if not where.endswith(".py"):
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        return importlib.import_module(where)
    name, path = Path(where).stem, str(Path(where).resolve())
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == path:
        return known  # a second execution would make other classes of the same names
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"no module in {where}")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # half of a module is none
        raise
    return module
