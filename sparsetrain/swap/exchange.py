"""Dense layers out, sparse ones in, and back, in place.

A parameter gives its place in the optimizer to the other form's, its state and gradient going
along. The dense module waits beside the sparse one, its weight emptied, so that it comes back as
the object that it was, in its memory order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.nn import Pattern, SparseConv2d, SparseLayer, SparseLinear
from sparsetrain.optim import replace_, set_data_
from sparsetrain.shrink.pretrained import SAVE, made_by_configs

ORIGIN = (
    "_origin"  # hangs beside a sparse layer's attributes, no submodule and no part of its state
)
FUSED: dict[type[nn.Module], tuple[str, Any]] = {  # what lets torch take its fused path, and not
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
    nn.TransformerEncoder: ("use_nested_tensor", False),
}
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


@dataclass(frozen=True, eq=False)
class Packing:
    """How a dense layer is packed: by which mask, in groups of how many outputs."""

    mask: Tensor
    v: int


@dataclass(frozen=True, eq=False)
class _Origin:
    """The dense form of a sparse layer.

    Attributes:
        like: its weight without memory: shape and strides.
    """

    module: nn.Module
    like: Tensor


@dataclass(frozen=True)
class _Refusal:
    """Stands for `save_pretrained` where there are sparse layers, which the model's class lacks."""

    model: str

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            f"save_pretrained: {self.model} has sparse layers, which from_pretrained cannot load;"
            " sparsetrain.export_huggingface(model, folder) writes them with their zeros"
        )


Packings = Mapping[nn.Module, Packing]  # by dense layer
Sparse = Mapping[nn.Module, SparseLayer]  # by dense layer


@torch.no_grad()
def pack_(
    model: nn.Module,
    packings: Packings,
    optimizer: Optimizer | None = None,
    reuse: Sparse | None = None,
) -> dict[nn.Module, SparseLayer]:
    """Put sparse layers in the place of dense ones.

    Args:
        reuse: sparse layers that stood for them before, which take on the masks and values.
    """
    made = {d: sparse_form(d, how, (reuse or {}).get(d)) for d, how in packings.items()}
    for dense, sparse in made.items():
        pattern, weight = sparse.pattern, dense.weight
        assert isinstance(weight, nn.Parameter)
        sparse.__dict__[ORIGIN] = _Origin(dense, torch.empty_like(weight, device="meta"))
        _hand_over(dense, sparse)
        _move(weight, sparse.weight, pattern.gather, optimizer)
        set_data_(weight, weight.new_empty(0))
    _exchange(model, made)
    return made


@torch.no_grad()
def densify(model: nn.Module, optimizer: Optimizer | None = None) -> nn.Module:
    """Put dense layers in the place of all sparse ones, in place: what undoes `sparsify`.

    Layers that `sparsify` put in give way to the modules and parameters that were there before.
    Weights are the same bit for bit, and the optimizer's state is zero where they are pruned.

    Args:
        optimizer: the one that trains the model, if one does.
    """
    back = {m: _dense(m, optimizer) for m in model.modules() if isinstance(m, SparseLayer)}
    if isinstance(model, SparseLayer):
        return back[model]
    _exchange(model, back)
    return model


def sparse_layers(model: nn.Module) -> dict[nn.Module, SparseLayer]:
    """The sparse layers that stand in the place of dense ones, by these."""
    layers = (m for m in model.modules() if isinstance(m, SparseLayer))
    return {m.__dict__[ORIGIN].module: m for m in layers if ORIGIN in m.__dict__}


def sparse_form(dense: Any, how: Packing, known: SparseLayer | None = None) -> SparseLayer:
    """A sparse layer with a dense one's weights: a new one, or one that is known takes them on."""
    if known is None:
        kind: Any = SparseConv2d if isinstance(dense, nn.Conv2d) else SparseLinear
        return kind.from_dense(dense, how.mask, how.v)
    weight = dense.weight
    assert isinstance(weight, nn.Parameter)
    pattern = Pattern.of(how.mask, how.v)
    if not torch.equal(pattern.index, known.index):  # else its kernels are known too
        known.index = pattern.index
    set_data_(known.weight, pattern.gather(weight.detach()))
    known.weight.requires_grad_(weight.requires_grad)
    known.bias = dense.bias
    return known


def _dense(sparse: Any, optimizer: Optimizer | None) -> nn.Module:
    origin = sparse.__dict__.pop(ORIGIN, None)
    pattern = sparse.pattern
    if origin is None:
        new: Any = sparse.to_dense()
        replace_(optimizer, sparse.weight, new.weight, pattern.scatter)
        return new
    dense: Any = origin.module
    like = origin.like

    def whole(values: Tensor) -> Tensor:
        return torch.empty_like(like, dtype=values.dtype, device=values.device).copy_(
            pattern.scatter(values)
        )

    set_data_(dense.weight, whole(sparse.weight.detach()))
    dense.weight.requires_grad_(sparse.weight.requires_grad)
    dense.bias = sparse.bias
    _hand_over(sparse, dense)
    _move(sparse.weight, dense.weight, whole, optimizer)
    return dense


def _hand_over(old: nn.Module, new: nn.Module) -> None:
    """Mode and hooks; the dicts of hooks are shared, so that a handle can remove its hook."""
    new.training = old.training
    for name in HOOKS:
        setattr(new, name, getattr(old, name))


def _move(old: nn.Parameter, new: nn.Parameter, values, optimizer: Optimizer | None) -> None:
    grad, old.grad = old.grad, None
    new.grad = None if grad is None else values(grad)
    replace_(optimizer, old, new, values)


def _exchange(model: nn.Module, modules: Mapping[Any, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in modules:
                parent._modules[name] = modules[child]
    for module in model.modules():
        for kind, (attribute, off) in FUSED.items():
            if isinstance(module, kind):
                _choose_path(module, attribute, off)
    for module in made_by_configs(model).values():
        _choose_saving(module)


def _choose_path(module: nn.Module, attribute: str, off: Any) -> None:
    """Torch's fused path reads the linear layers' weights itself: not where they are sparse."""
    own, kept = vars(module), f"_fused_{attribute}"
    sparse = any(isinstance(m, SparseLayer) for m in module.modules())
    if sparse and kept not in own:
        own[kept], own[attribute] = getattr(module, attribute), off
    elif not sparse and kept in own:
        own[attribute] = own.pop(kept)


def _choose_saving(module: nn.Module) -> None:
    own = vars(module)
    sparse = any(isinstance(m, SparseLayer) for m in module.modules())
    if sparse and SAVE not in own:
        own[SAVE] = _Refusal(type(module).__name__)
    elif not sparse and isinstance(own.get(SAVE), _Refusal):
        del own[SAVE]
