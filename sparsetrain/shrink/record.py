"""Record every operation that a model runs in one example call.

The call is carried out for real, so that a model may do what it likes: branch on data, loop, build
constants. What is recorded is what ran: operations of torch's dispatcher, after composite ones
came apart (`einsum` is `bmm` and `permute` by then, `nn.MultiheadAttention` is `addmm`, `view` and
an attention), so that few rules cover many models.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from sparsetrain.shrink import mentions, terms
from sparsetrain.shrink.mentions import Mentions
from sparsetrain.shrink.outputs import NoOutput, Outputs, chosen, matters
from sparsetrain.shrink.program import Program, Step, Value, mark_unused
from sparsetrain.support import modes
from sparsetrain.support.modes import python_dice, quietly

INDEX = (torch.int64, torch.int32)
SEED = 0  # of what a model draws while it is looked at: the same in all its runs
TORCH = str(Path(str(torch.__file__)).parent)
OWN = {
    __file__,
    mentions.__file__,
    terms.__file__,
    modes.__file__,
}  # files whose code is never the model's


def record(
    model: nn.Module,
    sample: Any,
    training: bool = False,
    only: type[nn.Module] = nn.Module,
    dropout: bool = False,
    outputs: Outputs = None,
    results: list[tuple[Any, list[Tensor]]] | None = None,
) -> Program:
    """Run `model` once on `sample`, and leave it as it was.

    Args:
        sample: one input, or a tuple of positional inputs, or a dict of keyword inputs.
        training: in training mode, with or without `dropout`, for modules of class `only` alone.
        outputs: which of its results matter (shrink/outputs.py); by default all.
        results: gets each operation with copies of what it makes, also where the model breaks off.

    Raises:
        ValueError: the model does not run on this sample; the message ends with its own reason.
    """
    args, kwargs = arguments(sample)
    recorder = _Recorder(model, (args, kwargs), results)
    found = Mentions(model, recorder.program.steps, recorder.known)
    try:
        with (
            torch.set_grad_enabled(training),  # attention has other operations where it learns
            quietly(model, training, SEED, only, dropout),
            without_fast_paths(),
            recorder.scopes(model),
            found.marked(),
            found,
            recorder,
        ):
            dice = python_dice()
            output = model(*args, **kwargs)
            recorder.program.rolls = dice != python_dice()
            matter = chosen(output, outputs)
    except NoOutput as error:
        raise ValueError(f"plan: outputs: {error}") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f"plan: {type(model).__name__} does not run on this sample: {reason}"
        ) from error
    program, book = recorder.program, found.book
    program.mentions, program.scales, program.equal = found.found, book.scales, book.equal
    recorder.returns(output)
    program.wanted = outputs
    program.outputs = [recorder.value(tensor) for tensor in tensors_of(matter)]
    if not program.outputs and outputs is not None and matters(outputs):
        raise ValueError(f"plan: outputs: {outputs!r} chooses no tensor of what the model returns")
    mark_unused(program, {name for name, _ in model.named_parameters()})
    return program


def in_training(model: nn.Module, sample: Any, **options: Any) -> tuple[Any, Program]:
    """The sample and the call in training mode, with `record`'s other options.

    Norms may need several in a batch: where the sample does not do, it is taken twice.

    Raises:
        ValueError: the model runs with neither; the reason is that of the sample as it is.
    """
    try:
        return sample, record(model, sample, training=True, **options)
    except ValueError as problem:
        try:
            more = twice(sample)
            return more, record(model, more, training=True, **options)
        except (ValueError, RuntimeError):
            raise problem from None


def arguments(sample: Any) -> tuple[tuple, dict]:
    """A sample as positional and keyword arguments of the model."""
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (tuple(sample) if isinstance(sample, tuple | list) else (sample,)), {}


def twice(sample: Any) -> Any:
    """The sample and itself once more, as one batch."""
    args, kwargs = arguments(sample)
    batch = next((len(t) for t in tensors_of((args, kwargs)) if t.dim()), 0)
    return tree_map_only(
        Tensor, lambda t: torch.cat([t, t]) if t.dim() and len(t) == batch else t, kwargs or args
    )


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a model returns: in tuples, dicts, and objects that hold them."""
    return [tensor for leaf in tree_leaves(output) for tensor in _held(leaf)]


def _held(leaf: Any) -> list[Tensor]:
    if isinstance(leaf, Tensor):
        return [leaf]
    if hasattr(leaf, "__dict__") and not isinstance(leaf, nn.Module | type):
        return [t for t in vars(leaf).values() if isinstance(t, Tensor)]
    return []


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module, inputs: Any, results: list | None) -> None:
        super().__init__()
        self.program = Program()
        self._results = results
        self._known = WeakTensorKeyDictionary()
        self._scope: list[str] = []
        for name, tensor in model.named_parameters():
            self._new(tensor, name)
        for name, tensor in model.named_buffers():
            if tensor not in self._known:
                self._new(tensor, name).buffer = True
        for tensor in tensors_of(inputs):
            self.program.inputs.append(self._new(tensor))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given, named = tree_map_only(Tensor, self.value, (args, kwargs or {}))
        results = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(results) if isinstance(t, Tensor)]
        outputs = [self._known.get(t) or self._new(t) for t in tensors]
        scope = self._scope[-1] if self._scope else ""
        step = Step(func, given, named, outputs, scope, _line())
        self.program.steps.append(step)
        if self._results is not None:
            self._results.append((func, [t.detach().clone() for t in tensors]))
        for value, tensor in zip(outputs, tensors, strict=True):
            value.known = _numbers(tensor) if step.constant else None
        return results

    def known(self, tensor: Tensor) -> Value | None:
        """The record of a tensor, if there is one; nothing is noted."""
        return self._known.get(tensor)

    def value(self, tensor: Tensor) -> Value:
        """The record of a tensor; one that nothing recorded made is a constant."""
        value = self._known.get(tensor)
        if value is None:
            value = self._new(tensor)
            value.held, value.known = tensor.detach(), _numbers(tensor)
        elif value.name is not None and value.name not in self.program.tensors:
            self.program.tensors[value.name] = value
            value.known = _numbers(tensor)
        return value

    def returns(self, output: Any) -> None:
        """Note what the model returned; an object is as good as a tuple of its tensors."""
        leaves, structure = tree_flatten(output)
        found: list[Any] = []
        for leaf in leaves:
            values = [self.value(t) for t in _held(leaf)]
            plain = leaf is None or isinstance(leaf, bool | int | float | str)
            one = values[0] if isinstance(leaf, Tensor) else tuple(values)
            found.append(leaf if plain else one)
        self.program.returned = found, structure

    def _new(self, tensor: Tensor, name: str | None = None) -> Value:
        last = tensor.dim() == 4 and not tensor.is_contiguous()
        last = last and tensor.is_contiguous(memory_format=torch.channels_last)
        value = Value(tuple(tensor.shape), tensor.dtype, name, channels_last=last)
        value.strides = tensor.stride() if tensor.layout == torch.strided else ()
        self._known[tensor] = value
        return value

    @contextmanager
    def scopes(self, model: nn.Module) -> Iterator[None]:
        """Know which of the model's modules is running."""
        names = {module: name for name, module in model.named_modules()}
        mine = threading.get_ident()  # the hooks are called in all threads, by all models

        def enter(module: nn.Module, args: Any) -> None:
            if threading.get_ident() == mine:
                self._scope.append(names.get(module, self._scope[-1] if self._scope else ""))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == mine:
                self._scope.pop()

        hooks = [
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _numbers(tensor: Tensor) -> Tensor | None:
    """A copy of a tensor that can be an index."""
    return tensor.detach().clone() if tensor.dtype in INDEX and tensor.numel() <= 2**16 else None


@contextmanager
def without_fast_paths() -> Iterator[None]:
    """Transformer and recurrent layers as separate operations."""
    backends: Any = torch.backends
    mha, mkldnn, cudnn = backends.mha, backends.mkldnn, backends.cudnn
    before = mha.get_fastpath_enabled(), mkldnn.enabled, cudnn.enabled
    mha.set_fastpath_enabled(False)
    mkldnn.enabled = cudnn.enabled = False
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before[0])
        mkldnn.enabled, cudnn.enabled = before[1:]


def _line() -> str:
    """The innermost line of the model's own code: outside torch, inside the call."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code is not record.__code__:
        path = frame.f_code.co_filename
        if not path.startswith(TORCH) and path not in OWN:
            return f"{Path(path).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
