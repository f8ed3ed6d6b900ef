"""All passes, in their order."""

from torch import Tensor

from sparsetrain.engine.lower.passes.attend import find_attention
from sparsetrain.engine.lower.passes.broadcasts import drop_expands
from sparsetrain.engine.lower.passes.channels import find_channels
from sparsetrain.engine.lower.passes.edit import sweep
from sparsetrain.engine.lower.passes.fold import fold_scales, merge_scales
from sparsetrain.engine.lower.passes.fuse import fuse_products
from sparsetrain.engine.lower.passes.gates import find_gates
from sparsetrain.engine.lower.passes.means import find_norms
from sparsetrain.engine.lower.passes.ranks import lift_products
from sparsetrain.engine.lower.passes.sink import sink_permutes
from sparsetrain.engine.lower.passes.views import merge_views
from sparsetrain_runtime.program import Program

PASSES = (
    merge_views,
    drop_expands,
    find_channels,
    lift_products,
    merge_views,
    lift_products,  # what stood behind another one
    merge_views,
    find_gates,
    merge_scales,
    find_norms,
    fold_scales,
    sink_permutes,
    merge_views,
    fold_scales,
    merge_scales,
    find_attention,
    fuse_products,
    merge_views,
)


def simplify(program: Program, tensors: dict[str, Tensor]) -> None:
    """Make a program shorter, in place."""
    sweep(program, tensors)
    for each in PASSES:
        each(program, tensors)
        sweep(program, tensors)
