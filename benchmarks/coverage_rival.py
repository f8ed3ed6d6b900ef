"""Torch-Pruning on the same networks, held to the same check as sparsetrain's removals.

It is told which layers make the output and how many heads an attention has. What it removed is read
from codes that stand in the parameters while it prunes: every entry holds its own number.
"""

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from benchmarks.coverage_check import (
    SHARE,
    Clock,
    distance,
    line_of,
    outputs,
    prunable,
    size,
    step,
)
from benchmarks.coverage_models import Case
from sparsetrain.shrink import Graph, trace
from sparsetrain.shrink.conformance import compare
from sparsetrain.shrink.proof import AS_GRAPH

QUERIES = ("q", "k", "v", "qkv", "query", "key", "value", "in_proj")
OUTPUT = "it is the model's output"
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
ENDING = "(_proj|_lin|_linear|_head|_layer)$"
SINGLE = 2**24  # whole numbers up to this have a float32 of their own
Stays = dict[str, dict[int, Tensor]]


def shrink(case: Case) -> dict[str, Any]:
    """A record of what came of it, as coverage_one.shrink gives."""
    clock, record = Clock(), {"way": None, "parameters": size(case.model)}
    try:
        graph = trace(case.model, case.sample)
        free = prunable(graph)
        before = size(case.model, free)
        coded, sample = _exact(copy.deepcopy(case.model), case.sample)
        clock("plan", lambda: _prune(coded, sample, graph))
        stays = _decoded(coded, case.model)
        coded.to(next(case.model.parameters()).dtype)
        _restore(coded, case.model, stays)
        error = compare(case.model, coded, case.sample, stays)
        record |= {"error": error, "kept": size(coded, free) / before, "prunable": before}
        record["changed"] = distance(outputs(case.model, case), outputs(coded, case))
        step(coded, case)
        record["way"] = "in place"
    except Exception as problem:
        record["reason"] = line_of(problem).removesuffix(AS_GRAPH)
    return record | {"seconds": clock.seconds}


def _exact(model: nn.Module, sample: Any) -> tuple[nn.Module, Any]:
    """In a precision that can number the entries of every tensor."""
    if all(t.numel() <= SINGLE for t in (*model.parameters(), *model.buffers())):
        return model, sample
    floating = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, sample)
    return model.double(), floating


def _prune(model: nn.Module, sample: Any, graph: Graph) -> None:
    """Half of the channels at random; the parameters end as the numbers of their entries."""
    halving = pruner(model, sample, graph)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
    halving.step()


def pruner(model: nn.Module, sample: Any, graph: Graph) -> Any:
    """Whose `step` removes half of the channels at random."""
    import torch_pruning

    made = [
        m.tensor for g in graph.groups if g.fixed == OUTPUT for m in g.members if not m.consumes
    ]
    weights = dict(model.named_parameters())
    last = {id(weights[name]) for name in made if name in weights}
    last |= {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}  # may be tied
    held = [m for m in model.modules() if id(getattr(m, "weight", None)) in last]
    return torch_pruning.pruner.BasePruner(
        model,
        sample,
        importance=torch_pruning.importance.RandomImportance(),
        pruning_ratio=1 - SHARE,
        ignored_layers=[m for m in held if not isinstance(m, nn.Embedding)],
        num_heads=_heads(model),
    )


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    heads: dict[nn.Module, int] = {}
    for module in model.modules():
        counts = [getattr(module, name, None) for name in COUNTS]
        count = next((n for n in counts if isinstance(n, int)), None)
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = module.num_heads
        elif count is not None:
            named = module.named_children()
            found = {m: count for n, m in named if re.sub(ENDING, "", n) in QUERIES}
            heads |= {m: n for m, n in found.items() if isinstance(m, nn.Linear)}
    return heads


def _decoded(coded: nn.Module, model: nn.Module) -> Stays:
    """Tensor -> {dimension: entries that stay}."""
    whole = _named(model)
    stays: Stays = {}
    for name, tensor in (*coded.named_parameters(), *coded.named_buffers()):
        if tensor.shape == whole[name].shape or not tensor.numel():
            continue
        each = torch.unravel_index(tensor.detach().long(), whole[name].shape)
        for dim, places in enumerate(each):
            if tensor.shape[dim] < whole[name].shape[dim]:
                stays.setdefault(name, {})[dim] = places.movedim(dim, 0).reshape(
                    tensor.shape[dim], -1
                )[:, 0]
    return stays


def _named(model: nn.Module) -> dict[str, Tensor]:
    """By all names: a pruner may part what was tied."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers()])


def _restore(coded: nn.Module, model: nn.Module, stays: Stays) -> None:
    """The model's own numbers in what is left."""
    whole = _named(model)
    for name, tensor in (*coded.named_parameters(), *coded.named_buffers()):
        data = whole[name].detach()
        for dim, stay in stays.get(name, {}).items():
            data = data.index_select(dim, stay)
        tensor.data = data.clone()
