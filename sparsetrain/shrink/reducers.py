"""DistributedDataParallel goes on with a model whose parameters have other sizes."""

import gc

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def rebuild_reducers(model: nn.Module) -> None:
    """Let DistributedDataParallel make its buckets anew, for parameters that have other sizes.

    By what it does itself when a pickled one comes back.
    """
    for wrapper in _wrappers(model):
        parameters, sparse = wrapper._build_params_for_reducer()
        names = wrapper._build_debug_param_to_name_mapping(parameters)
        wrapper._ddp_init_helper(parameters, sparse, names, wrapper.static_graph)
        if wrapper.static_graph:
            wrapper.static_graph = False  # or it warns that it is set
            wrapper._set_static_graph()
        for hook, state in wrapper._comm_hooks:
            distributed._register_comm_hook(wrapper.reducer, state, hook)  # type: ignore


def _wrappers(model: nn.Module) -> list[DistributedDataParallel]:
    """Those inside a model, and those around it, of which it does not know."""
    if not distributed.is_available() or not distributed.is_initialized():
        return []
    own = set(model.modules())
    every = [o for o in gc.get_objects() if issubclass(type(o), DistributedDataParallel)]
    return [wrapper for wrapper in every if not own.isdisjoint(wrapper.modules())]
