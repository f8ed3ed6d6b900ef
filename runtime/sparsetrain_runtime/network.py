"""Networks that are ready to be called with numpy arrays."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsetrain_runtime.library import Desks, EngineError, Session
from sparsetrain_runtime.planner import Planned, Planner
from sparsetrain_runtime.program import Program, Size, at
from sparsetrain_runtime.rules import RULES
from sparsetrain_runtime.words import Step, encoded

CHUNK = 16  # items that are computed together: as many as fill a register of 512 bits
FAULTS = (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, AssertionError)


@dataclass(frozen=True)
class TensorSpec:
    """What a network takes or returns: sizes, None where they hang on the batch; numpy's dtype."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class _Ready:
    """A program that is prepared for one batch."""

    planned: Planned
    session: Session


class Network:
    """A program with its tensors.

    Several threads may call one network at a time; each call then has memory of its own.

    Args:
        program: what is computed.
        tensors: by the names that the program has for them.
        threads: of one call.
        name: of the network, for those who serve several.
        info: what its file says of it, such as "classes".
        chunk: larger batches are computed piece by piece, at most as many items at a time; a
            power of two, as are all pieces.
        release: called after a batch was prepared: what was read for it may leave the memory.

    Attributes:
        inputs, outputs: name -> TensorSpec.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, np.ndarray],
        threads: int | None = None,
        name: str = "network",
        info: Mapping[str, Any] | None = None,
        chunk: int = CHUNK,
        release: Callable[[], None] | None = None,
    ) -> None:
        self._release = release
        self.program, self.name, self.chunk = program, name, chunk
        self.info = dict(info or {})
        self.threads = thread_count(threads)
        self.inputs = {n: _spec(program, v) for n, v in program.inputs.items()}
        self.outputs = {n: _spec(program, v) for n, v in program.outputs.items()}
        ends = (*program.inputs.values(), *program.outputs.values())
        self._splits = all(_first(program.values[v].shape) for v in ends)
        self.tensors = dict(tensors)
        self._desks = Desks(self.threads)
        self._ready: dict[int, _Ready] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs of one batch.

        Args:
            args, kwargs: arrays, by position or by name; or one mapping of names to arrays.

        Returns:
            The output, or a dict of them where there are several or a mapping was given.

        Raises:
            EngineError: an input is missing, or has another dtype or shape.
        """
        mapping = len(args) == 1 and not kwargs and isinstance(args[0], Mapping)
        given = self._named(() if mapping else args, args[0] if mapping else kwargs)
        found = self._run(given, self._batch(given))
        return found if mapping or len(found) > 1 else next(iter(found.values()))

    @property
    def bytes(self) -> int:
        """Of the tensors that it runs with."""
        names = {name for op in self.program.ops for name in op.tensors.values()}
        return sum(self.tensors[name].nbytes for name in names)

    def prepare(self, batch: int) -> None:
        """Decide layouts and memory for a batch now, which its first call would do otherwise."""
        if self.program.batch is None or not self._splits:
            self._prepared(0 if self.program.batch is None else batch)
        else:
            self._prepared(self._next(batch))

    def seconds(self, batch: int, calls: int = 20) -> list[tuple[Step, float]]:
        """Where the time goes: seconds a call of each step, the least of several random calls."""
        ready = self._prepared(batch if self.program.batch is not None else 0)
        inputs = [_random(b.count, b.dtype) for b in ready.planned.inputs]
        outputs = [np.empty(b.count, b.dtype) for b in ready.planned.outputs]
        ready.session.run(inputs, outputs)
        least = np.full(len(ready.planned.steps), np.inf)
        for _ in range(calls):
            times = np.zeros(len(least))
            ready.session.run(inputs, outputs, times)
            least = np.minimum(least, times)
        return list(zip(ready.planned.steps, least.tolist(), strict=True))

    def _named(self, args: tuple, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
        names = list(self.inputs)
        if len(args) > len(names):
            raise EngineError(f"{self.name}: {len(names)} inputs are needed, got {len(args)}")
        arrays = {**dict(zip(names, args, strict=False)), **given}
        if set(arrays) != set(names):
            raise EngineError(
                f"{self.name}: the inputs are {', '.join(names)}; got {', '.join(map(str, arrays))}"
            )
        return {name: _array(self.name, name, arrays[name], self.inputs[name]) for name in names}

    def _batch(self, arrays: Mapping[str, np.ndarray]) -> int:
        sizes = {len(arrays[name]) for name, spec in self.inputs.items() if None in spec.shape}
        if len(sizes) > 1:
            raise EngineError(f"{self.name}: its inputs are of different batches: {sorted(sizes)}")
        return sizes.pop() if sizes else 0

    def _run(self, arrays: Mapping[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
        program = self.program
        if program.batch is None or (batch and not self._splits):
            return self._piece(arrays, self._empty(batch), batch)
        found = self._empty(batch)
        end = 0
        while end < batch:
            begin, end = end, end + self._next(batch - end)
            piece = {n: a[begin:end] if self._varies(n) else a for n, a in arrays.items()}
            part = {
                n: y[begin:end] if None in self.outputs[n].shape else y for n, y in found.items()
            }
            self._piece(piece, part, end - begin)
        return found

    def _next(self, left: int) -> int:
        """Items of the next piece: a power of two, so that few batches are ever prepared."""
        return min(self.chunk, 1 << (left.bit_length() - 1))

    def _varies(self, name: str) -> bool:
        return None in self.inputs[name].shape

    def _piece(
        self, inputs: Mapping[str, np.ndarray], outputs: dict[str, np.ndarray], batch: int
    ) -> dict[str, np.ndarray]:
        session = self._prepared(batch).session
        session.run([*inputs.values()], [*outputs.values()])
        return outputs

    def _empty(self, batch: int) -> dict[str, np.ndarray]:
        found = {}
        for name, number in self.program.outputs.items():
            value = self.program.values[number]
            shape = [at(size, batch) for size in value.shape]
            if min(shape, default=0) < 0:
                raise EngineError(f"{self.name}: of a batch of {batch} {name} would be {shape}")
            found[name] = np.empty(shape, value.dtype)
        return found

    def _prepared(self, batch: int) -> _Ready:
        ready = self._ready.get(batch)
        if ready is None:
            with self._lock:
                ready = self._ready.get(batch) or self._prepare(batch)
                self._ready[batch] = ready
        return ready

    def _prepare(self, batch: int) -> _Ready:
        shapes = {n: (t.dtype.name, t.shape) for n, t in self.tensors.items()}
        try:
            planned = Planner(self.program, batch, shapes).plan(RULES)
        except FAULTS as error:
            raise EngineError(f"{self.name}: it cannot be planned: {error!r:.200}") from error
        sizes = [[b.bytes for b in bs] for bs in (planned.inputs, planned.outputs)]
        constants = [self.tensors[name] for name in planned.constants]
        try:
            words = encoded(planned.steps, planned.arena, len(constants), *sizes)
            ready = _Ready(planned, Session(words, constants, self._desks))
        except (EngineError, OverflowError, KeyError) as error:
            raise EngineError(f"{self.name}: {_place(planned, error)}") from error
        if self._release is not None:
            self._release()
        return ready


def _place(planned: Planned, error: Exception) -> str:
    """The engine's message, with the place in the user's network."""
    text = str(error)
    if text.startswith("step ") and text[5:].split()[0].rstrip(":").isdigit():
        step = planned.steps[int(text[5:].split()[0].rstrip(":"))]
        return f"{step.place}: {text.split(': ', 1)[-1]}"
    return text


def thread_count(threads: int | None) -> int:
    """Threads of a call: what was asked for, or a number that fits this machine.

    Raises:
        EngineError: it is no number of threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if threads is None:
        return cores or 1
    if type(threads) is not int or threads < 1:
        raise EngineError(f"threads must be a number of at least 1, got {threads!r:.40}")
    if cores and threads > cores:
        warnings.warn(f"{threads} threads on {cores} cores: {cores} are used", stacklevel=3)
        return cores
    return threads


def _spec(program: Program, value: int) -> TensorSpec:
    shape = program.values[value].shape
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    return TensorSpec(sizes, program.values[value].dtype)


def _array(network: str, name: str, array: Any, spec: TensorSpec) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.name != spec.dtype:
        raise EngineError(f"{network}: {name} must be {spec.dtype}, got {array.dtype.name}")
    fits = len(array.shape) == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ["N" if n is None else n for n in spec.shape]
        shown = str(wanted).replace("'", "")
        raise EngineError(f"{network}: {name} must be {shown}, got {list(array.shape)}")
    return np.ascontiguousarray(array)


def _first(shape: tuple[Size, ...]) -> bool:
    """Whether the batch is the first size, or none."""
    plain = all(isinstance(size, int) for size in shape[1:])
    return plain and (not shape or isinstance(shape[0], int) or tuple(shape[0]) == (1, 0))


def _random(count: int, dtype: str) -> np.ndarray:
    if dtype == "float32":
        return np.random.default_rng(0).standard_normal(count, np.float32)
    return np.zeros(count, dtype)
