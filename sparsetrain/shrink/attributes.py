"""Widths that a model's modules keep as attributes: `out_channels`, `num_heads`, `hidden_size`.

Torch's own layers say what their tensors are. In others a number changes as the operations need it
that the module's code gave it to (shrink/mentions.py). A number that no operation was given changes
where its name is that of a width, and every dimension of that size in the module's operations goes
to one and the same new size; but not where it became a fraction, such as the scale of a sum.
"""

import re
from collections import defaultdict
from typing import Any

from torch import nn

from sparsetrain.shrink.graph import whole_groups
from sparsetrain.shrink.mentions import Mention, numbers_of
from sparsetrain.shrink.multihead import (
    ShrunkMultiheadAttention,
    attention_sizes,
    heads_left,
    transformer_sizes,
)
from sparsetrain.shrink.program import Step
from sparsetrain.shrink.rewrite import rewritten
from sparsetrain.shrink.small import Small

WIDTH = re.compile(
    r"head|dim|width|channel|feature|size|embed|hidden|inner|planes|nf$|nx$|groups|radix|d_|units"
    r"|split|normalized_shape|chans|chs"
)
POSITIONS = re.compile(
    r"kernel|patch|window|image|img|pool|stride|pad|dilation|position|seq|vocab|batch|grid|chunk"
)
Sizes = dict[nn.Module, dict[str, Any]]  # module -> attribute -> what it shall be


def tensor_sizes(module: nn.Module, heads: int = 0) -> dict[str, Any]:
    """What a layer of torch says of itself, from its tensors, and of attention so many `heads`."""
    if type(module) in (nn.MultiheadAttention, ShrunkMultiheadAttention):
        return attention_sizes(module, heads or module.num_heads)
    if isinstance(module, nn.Transformer | nn.TransformerEncoder):
        return transformer_sizes(module)
    weight = _weight(module)
    if isinstance(module, nn.modules.conv._ConvNd):
        return _convolution(module)
    if isinstance(module, nn.Linear):
        return {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    if isinstance(module, nn.Bilinear):
        names = ("out_features", "in1_features", "in2_features")
        return dict(zip(names, weight.shape, strict=True))
    if isinstance(module, nn.modules.batchnorm._NormBase):
        held = module.running_mean if weight is None else weight
        return {} if held is None else {"num_features": held.shape[0]}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {} if weight is None else {"normalized_shape": tuple(weight.shape)}
    if isinstance(module, nn.GroupNorm):
        return {} if weight is None else _group_norm(module, weight.shape[0])
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight.shape[0]}
    if isinstance(module, nn.RNNBase):
        return _recurrent(module)
    if isinstance(module, nn.RNNCellBase):
        return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
    return {}


def _weight(module: nn.Module, name: str = "weight") -> Any:
    """The layer's weight, or what `weight_norm` and its kind compute it from before each call."""
    for made_from in (f"{name}_v", f"{name}_orig"):
        if made_from in module._parameters:
            return module._parameters[made_from]
    return getattr(module, name, None)


def _group_norm(module: nn.GroupNorm, channels: int) -> dict[str, Any]:
    each = module.num_groups == module.num_channels
    return {"num_channels": channels, "num_groups": channels if each else module.num_groups}


def _recurrent(module: Any) -> dict[str, Any]:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    rows, state = _weight(module, "weight_hh_l0").shape
    sizes = {"input_size": _weight(module, "weight_ih_l0").shape[1], "hidden_size": rows // gates}
    return sizes | ({"proj_size": state} if module.proj_size else {})


def _convolution(module: nn.modules.conv._ConvNd) -> dict[str, Any]:
    rows, columns = _weight(module).shape[:2]
    groups = module.groups
    if module.transposed:
        per_group = module.in_channels // groups
        if groups > 1 and whole_groups(groups, per_group):
            groups = rows // per_group
        return {"in_channels": rows, "out_channels": columns * groups, "groups": groups}
    if groups > 1 and whole_groups(groups, module.in_channels // groups):
        groups = groups * rows // module.out_channels
    return {"out_channels": rows, "in_channels": columns * groups, "groups": groups}


def traced_sizes(model: nn.Module, small: Small) -> Sizes:
    """Attributes of other modules that change, by what their operations show."""
    changes: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for step in small.walk.program.steps:
        for old, new in _sizes(step, small):
            changes[step.module][old].add(new)
    found: Sizes = {}
    told = _told(small)
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            found[module] = {"num_heads": heads_left(module, name, small)}
        if _torchs_own(module) and not _bare_norm(module):
            continue
        pairs = {old: new for old, new in changes.get(name, {}).items() if new != {old}}
        for attribute, value in vars(module).items():
            changed = None
            if (name, attribute) in told:
                changed = _only(told[name, attribute], value)
            elif (name, attribute) not in small.walk.program.scales:  # of `self.dim**-0.5`
                changed = _changed(attribute, value, pairs)
            if changed is not None:
                found.setdefault(module, {})[attribute] = changed
    return found


def _torchs_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules")


def _bare_norm(module: nn.Module) -> bool:
    """A norm that has no tensor to say how many channels there are."""
    return isinstance(module, nn.modules.batchnorm._NormBase) and not tensor_sizes(module)


def _told(small: Small) -> dict[tuple[str, str], set[int]]:
    """(Module, attribute) -> what the calls that it was given to need instead of it."""
    told: dict[tuple[str, str], set[int]] = defaultdict(set)
    for mention in small.walk.program.mentions:
        for number in mention.steps:
            told[mention.module, mention.attribute] |= _needed(mention, number, small)
    return {key: needed for key, needed in told.items() if needed}


def _needed(mention: Mention, number: int, small: Small) -> set[int]:
    step = small.walk.program.steps[number]
    before = numbers_of((step.args, dict(step.kwargs)))
    after = numbers_of(rewritten(step, small)[1:])
    if len(before) != len(after):
        return set()
    value = mention.numbers[mention.place]
    same_call = len(before) == len(mention.numbers)
    places = [mention.place] if same_call else range(len(before))
    return {after[i] for i in places if before[i] == value}


def _only(needed: set[int], value: int) -> int | None:
    new = needed - {value}
    return new.pop() if len(new) == 1 else None


def _sizes(step: Step, small: Small) -> list[tuple[int, int]]:
    pairs = []
    for value in (*step.values, *step.outputs):
        if value in small.walk.tracer.dims:
            pairs += zip(value.shape, small.shape(value), strict=True)
    return pairs


def _changed(attribute: str, value: Any, pairs: dict[int, set[int]]) -> Any:
    if not WIDTH.search(attribute) or POSITIONS.search(attribute) or isinstance(value, bool):
        return None
    if isinstance(value, int) and value in pairs:
        return _only(pairs[value], value)
    if isinstance(value, tuple) and value and all(type(v) is int for v in value):
        each = tuple(_changed(attribute, v, pairs) for v in value)
        changed = tuple(v if n is None else n for v, n in zip(value, each, strict=True))
        return changed if changed != value else None
    return None
