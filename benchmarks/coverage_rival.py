"""Torch-Pruning on the same networks, held to the same check as sparsetrain's removals.

It is told which layers make the output and how many heads an attention has. What it removed is read
from codes that stand in the parameters while it prunes: every entry holds its own number.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from benchmarks.coverage_models import Case
from benchmarks.coverage_one import (
    SHARE,
    Clock,
    distance,
    line_of,
    outputs,
    prunable,
    size,
    step,
)
from sparsetrain.shrink import Graph, trace
from sparsetrain.shrink.proof import Proof
from sparsetrain.shrink.replay import replay

QUERIES = ("q", "k", "v", "qkv", "query", "key", "value", "in_proj")
OUTPUT = "it is the model's output"
Stays = dict[str, dict[int, Tensor]]


def shrink(case: Case) -> dict[str, Any]:
    """A record of what came of it, as coverage_one.shrink gives."""
    clock, record = Clock(), {"way": None, "parameters": size(case.model)}
    try:
        graph = trace(case.model, case.sample)
        free, before = prunable(graph), size(case.model, prunable(graph))
        coded = copy.deepcopy(case.model).double()
        clock("plan", lambda: _prune(coded, case.sample, graph))
        stays = _decoded(coded, case.model)
        with torch.no_grad():
            wanted = replay(graph.walk, case.model, case.sample, stays)
        wanted = [t for t in wanted if t.is_floating_point()]
        coded.to(next(case.model.parameters()).dtype)
        _restore(coded, case.model, stays)
        error = Proof(case.sample, wanted, None).check(coded)
        record |= {"error": error, "kept": size(coded, free) / before, "prunable": before}
        record["changed"] = distance(outputs(case.model, case), outputs(coded, case))
        step(coded, case)
        record["way"] = "in place"
    except Exception as problem:
        record["reason"] = line_of(problem)
    return record | {"seconds": clock.seconds}


def _prune(model: nn.Module, sample: Any, graph: Graph) -> None:
    """Half of the channels at random; the parameters end as the numbers of their entries."""
    import torch_pruning

    made = {
        m.tensor for g in graph.groups if g.fixed == OUTPUT for m in g.members if not m.consumes
    }
    layers = {f"{name}.weight": module for name, module in model.named_modules()}
    doubled = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, sample)
    pruner = torch_pruning.pruner.BasePruner(
        model,
        doubled,
        importance=torch_pruning.importance.RandomImportance(),
        pruning_ratio=1 - SHARE,
        ignored_layers=[layers[name] for name in made if name in layers],
        num_heads=_heads(model),
    )
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
    pruner.step()


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    heads: dict[nn.Module, int] = {}
    for module in model.modules():
        count = getattr(module, "num_heads", getattr(module, "num_attention_heads", None))
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = module.num_heads
        elif isinstance(count, int):
            named = module.named_children()
            found = {m: count for n, m in named if n.removesuffix("_proj") in QUERIES}
            heads |= {m: n for m, n in found.items() if isinstance(m, nn.Linear)}
    return heads


def _decoded(coded: nn.Module, model: nn.Module) -> Stays:
    """Tensor -> {dimension: entries that stay}."""
    whole = dict([*model.named_parameters(), *model.named_buffers()])
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


def _restore(coded: nn.Module, model: nn.Module, stays: Stays) -> None:
    """The model's own numbers in what is left."""
    whole = dict([*model.named_parameters(), *model.named_buffers()])
    for name, tensor in (*coded.named_parameters(), *coded.named_buffers()):
        data = whole[name].detach()
        for dim, stay in stays.get(name, {}).items():
            data = data.index_select(dim, stay)
        tensor.data = data.clone()
