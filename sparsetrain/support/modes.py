"""Run a model to look at it, and leave no trace."""

import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

DROPOUTS = {
    *(torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout),
    *(functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d),
    *(functional.alpha_dropout, functional.feature_alpha_dropout),
}
SHARES = {  # where a function that drops entries on its way is told how many
    functional.scaled_dot_product_attention: 4,
    functional.multi_head_attention_forward: 10,
}
# Held while settings that all threads share are others: generators, the default dtype, backends,
# warnings, hooks of all modules. So models that are looked at side by side take turns.
SHARED = threading.RLock()


@contextmanager
def quietly(
    model: nn.Module,
    training: bool,
    seed: int | None = None,
    only: type[nn.Module] = nn.Module,
    dropout: bool = False,
) -> Iterator[None]:
    """Train or eval mode for a while, without dropout unless it is asked for.

    With a `seed`, what the model draws is the same every time; training is for modules of the
    class `only`, and with `dropout` not for those that are in evaluation mode in a model that
    trains. No other rank is asked for anything. Afterwards every module's mode, every buffer
    (running statistics) and the random number generators are as they were. Of several threads one
    at a time is in here.
    """
    with SHARED:
        yield from _quietly(model, training, seed, only, dropout)


def _quietly(
    model: nn.Module, training: bool, seed: int | None, only: type[nn.Module], dropout: bool
) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    still = {m for m, mode in modes.items() if dropout and model.training and not mode}
    statistics = [(b, b.clone()) for b in model.buffers()] if training else []
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    draws = random.getstate(), np.random.get_state()
    try:
        model.train(training)
        for module in model.modules():
            drops = isinstance(module, _DropoutNd) and not dropout
            if drops or module in still or not isinstance(module, only):
                module.training = False
        without = _WithoutDropout() if training and not dropout else nullcontext()
        with torch.random.fork_rng(devices), _plainly(), _alone(model), without:
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed)
            yield
    finally:
        random.setstate(draws[0])
        np.random.set_state(draws[1])
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, before in statistics:
                buffer.copy_(before)


class _Fused:
    """Torch's switch for its fused path of transformers, which is the process's own."""

    lock = threading.Lock()
    off = 0  # how many threads have turned it off
    before = True


@contextmanager
def unfused() -> Iterator[None]:
    """Transformers call their layers with tensors, so that hooks see them.

    Torch's fused path does not call them, and packs a padded batch into what is no tensor. Of
    several threads the first turns it off, the last one on.
    """
    switch = torch.backends.mha
    with _Fused.lock:
        if not _Fused.off:
            _Fused.before = switch.get_fastpath_enabled()
        _Fused.off += 1
        switch.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _Fused.lock:
            _Fused.off -= 1
            if not _Fused.off:
                switch.set_fastpath_enabled(_Fused.before)


@contextmanager
def _plainly() -> Iterator[None]:
    """Outside inference mode, and without the copies that autocast keeps of weights.

    A compiled model warns of hooks on all modules, such as those that tell which one is running,
    and a reentrant checkpoint where nothing learns.
    """
    learns = torch.is_grad_enabled()
    torch.clear_autocast_cache()
    try:
        with (
            warnings.catch_warnings(),
            torch.inference_mode(False),
            torch.set_grad_enabled(learns),
        ):
            warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global")
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad=True")
            yield
    finally:
        torch.clear_autocast_cache()


@contextmanager
def _alone(model: nn.Module) -> Iterator[None]:
    """DistributedDataParallel calls what it wraps, and no other rank."""
    wrappers = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
    wrappers = [m for m in wrappers if "forward" not in vars(m)]
    for wrapper in wrappers:
        vars(wrapper)["forward"] = wrapper.module
    try:
        yield
    finally:
        for wrapper in wrappers:
            del vars(wrapper)["forward"]


def python_dice() -> tuple[Any, ...]:
    """The states of the generators that are not torch's, to be compared."""
    _, keys, *rest = np.random.get_state()
    return random.getstate(), bytes(keys), *rest  # type: ignore[arg-type]


class _WithoutDropout(TorchFunctionMode):
    """Also where a model calls dropout as a function."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = list(args), dict(kwargs or {})
        if func in DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func in SHARES:
            if len(args) > SHARES[func]:
                args[SHARES[func]] = 0.0
            else:
                kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)
