"""Modules around modules, and names without them.

torch.compile, DataParallel, DistributedDataParallel, FullyShardedDataParallel, AveragedModel and
activation checkpointing put a module around another one, and a segment into the names of all that
is inside. A bare name is one without such segments, wherever they stand:

    module.encoder._orig_mod.0.weight  ->  encoder.0.weight
"""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

WRAPPERS = (AveragedModel, DataParallel, DistributedDataParallel)  # their attribute is `module`
ATTRIBUTES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
SEGMENTS = {"module", *ATTRIBUTES}


def inside(module: object) -> str | None:
    """The attribute under which a wrapper holds its module; None for any other module."""
    if isinstance(module, WRAPPERS):
        return "module"
    if not isinstance(module, nn.Module):
        return None
    held = module._modules
    return next((name for name in ATTRIBUTES if isinstance(held.get(name), nn.Module)), None)


def unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """What the outer wrappers hold, and its name in there: "module._orig_mod."."""
    prefix = ""
    while (attribute := inside(model)) is not None:
        model, prefix = getattr(model, attribute), f"{prefix}{attribute}."
    return model, prefix


def bare(model: nn.Module, name: str) -> str:
    """The bare name of a parameter, buffer or module of `model`; one that is bare stays."""
    segments = name.split(".")
    if SEGMENTS.isdisjoint(segments):
        return name
    kept, held = [], model
    for segment in segments:
        if segment != inside(held):
            kept.append(segment)
        held = getattr(held, segment, None)
    if held is not None:
        return ".".join(kept)
    inner, prefix = unwrapped(model)
    return bare(inner, name) if prefix else name


def bare_parameters(model: nn.Module, remove_duplicate: bool = True) -> dict[str, nn.Parameter]:
    """Bare name -> parameter; a shared one under its first name, or under all."""
    named = model.named_parameters(remove_duplicate=remove_duplicate)
    return {bare(model, name): parameter for name, parameter in named}


def full_names(model: nn.Module) -> dict[str, str]:
    """Bare name -> the name that the model itself has for a parameter."""
    named = model.named_parameters(remove_duplicate=False)
    return {bare(model, name): name for name, _ in named}


def bare_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Bare name -> module, wrappers left out."""
    return {bare(model, n): m for n, m in model.named_modules() if inside(m) is None}
