"""Widths that torch's own layers keep as attributes: `out_channels`, `normalized_shape`."""

from typing import Any

from torch import nn

from sparsetrain.shrink.graph import whole_groups
from sparsetrain.shrink.multihead import (
    ShrunkMultiheadAttention,
    attention_sizes,
    heads_left,
    transformer_sizes,
)
from sparsetrain.shrink.small import Small

TORCHS = (nn.MultiheadAttention, ShrunkMultiheadAttention)  # not a subclass of a user's own


def tensor_sizes(module: nn.Module, heads: int = 0) -> dict[str, Any]:
    """What a layer of torch says of itself, from its tensors, and of attention so many `heads`."""
    if isinstance(module, nn.MultiheadAttention) and type(module) in TORCHS:
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


def heads_by_module(model: nn.Module, small: Small) -> dict[nn.Module, int]:
    """The heads that torch's attentions have left, of which no tensor tells."""
    return {
        module: heads_left(module, name, small)
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }
