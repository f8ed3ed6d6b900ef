"""Calling a model while others stand in for some of its modules, or look on."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sparsetrain.shrink import arguments
from sparsetrain.support.modes import unfused


def call(model: nn.Module, batch: Any) -> None:
    """Run a model on inputs as `plan`'s sample, or on a pair's input where it takes one alone."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        try:
            signature(model.forward).bind(*batch)
        except TypeError:
            batch = batch[0]
    args, kwargs = arguments(batch)
    model(*args, **kwargs)


@contextmanager
def hooked(
    modules: Iterable[nn.Module], see: Callable[[nn.Module, tuple, dict], Any]
) -> Iterator[None]:
    """Call see(module, args, kwargs) before each of these modules runs."""

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        see(module, args, kwargs)

    handles = [m.register_forward_pre_hook(hook, with_kwargs=True) for m in modules]
    try:
        with unfused():
            yield
    finally:
        for handle in handles:
            handle.remove()


class _StandIn(nn.Module):
    """Returns what a block had made, whatever it is called with; any attribute is the block's."""

    def __init__(self, block: nn.Module, given: Any) -> None:
        super().__init__()
        self.__dict__["held"] = (block, given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["held"][0], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        given = self.__dict__["held"][1]
        return tree_map_only(Tensor, torch.clone, given)  # others may change it in place


@contextmanager
def stood_in(model: nn.Module, given: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Others in the place of these blocks, which are not called: their hooks rest, too."""
    places = [
        (held, name, child)
        for held in (model.modules() if given else ())
        for name, child in held._modules.items()
        if child is not None and child in given
    ]
    try:
        for held, name, child in places:
            held._modules[name] = _StandIn(child, given[child])
        yield
    finally:
        for held, name, child in places:
            held._modules[name] = child


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """No keys and values of earlier tokens are kept, where a model's config can say so."""
    config: Any = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    if cached:
        config.use_cache = False
    try:
        yield
    finally:
        if cached:
            config.use_cache = cached
