"""The compiled engine, by its C functions (csrc/engine/api.cpp).

Calls release the GIL. What Python hands over is checked on the other side, word by word.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

ERROR_BYTES = 512
ISAS = ("default", "avx2", "avx512")


class EngineError(ValueError):
    """A network, or what it was given, that the engine refuses; the message is one line."""


@cache
def _library() -> ctypes.CDLL:
    found = sorted(Path(__file__).parent.glob("_engine*.so"))
    if not found:
        raise ImportError(
            "sparsetrain_runtime: the compiled engine is missing; install the package again"
        )
    library = ctypes.CDLL(str(found[0]))
    library.sparsetrain_operations.restype = ctypes.c_int64
    library.sparsetrain_operation.restype = ctypes.c_char_p
    library.sparsetrain_operation.argtypes = [ctypes.c_int64]
    for function in (
        library.sparsetrain_open,
        library.sparsetrain_prepare,
        library.sparsetrain_run,
    ):
        function.restype = ctypes.c_int
    for function in (library.sparsetrain_close, library.sparsetrain_release):
        function.argtypes = [ctypes.c_void_p]
        function.restype = None
    return library


@cache
def operations() -> Mapping[str, int]:
    """Name -> number of each operation that the library has."""
    library = _library()
    return {
        library.sparsetrain_operation(i).decode(): i
        for i in range(library.sparsetrain_operations())
    }


def instruction_set() -> str:
    """The one in use: default, avx2 or avx512; SPARSETRAIN_ISA sets the highest."""
    return ISAS[_library().sparsetrain_isa()]


class Desks:
    """Memory and threads for the calls of one network, whatever the batch.

    Raises:
        EngineError: threads is no number of threads.
    """

    def __init__(self, threads: int) -> None:
        self.handle = ctypes.c_void_p()
        _call(_library().sparsetrain_open, ctypes.c_int(threads), ctypes.byref(self.handle))

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            _library().sparsetrain_close(self.handle)


class Session:
    """A prepared program. Several threads may call it at a time.

    Args:
        words: `[n]` int64: csrc/engine/program.h.
        constants: contiguous arrays; they are kept, not copied.
        desks: which it may share with other programs.

    Attributes:
        sizes: bytes of each input, and of each output.

    Raises:
        EngineError: the program is not right.
    """

    def __init__(self, words: np.ndarray, constants: Sequence[np.ndarray], desks: Desks) -> None:
        self._constants = tuple(constants)
        self._handle = ctypes.c_void_p()
        words = np.ascontiguousarray(words, np.int64)
        pointers = _pointers(self._constants)
        sizes = (ctypes.c_int64 * len(constants))(*(c.nbytes for c in constants))
        _call(
            _library().sparsetrain_prepare,
            ctypes.c_void_p(words.ctypes.data),
            ctypes.c_int64(len(words)),
            pointers,
            sizes,
            ctypes.c_int64(len(constants)),
            desks.handle,
            ctypes.byref(self._handle),
        )
        self.sizes = _bytes(words)

    def run(
        self,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        seconds: np.ndarray | None = None,
    ) -> None:
        """Compute `outputs`, contiguous arrays of the sizes that the program has.

        Args:
            seconds: `[steps]` float64; each step's time is added to it.

        Raises:
            EngineError: an array is of another size, or an input holds an index out of range.
        """
        for arrays, sizes, what in zip((inputs, outputs), self.sizes, ("in", "out"), strict=True):
            given = [a.nbytes if a.flags.c_contiguous else -1 for a in arrays]
            if given != sizes:
                raise EngineError(f"{what}puts must be contiguous, of {sizes} bytes; got {given}")
        where = None if seconds is None else ctypes.c_void_p(seconds.ctypes.data)
        _call(
            _library().sparsetrain_run, self._handle, _pointers(inputs), _pointers(outputs), where
        )

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            _library().sparsetrain_release(self._handle)


def _bytes(words: np.ndarray) -> tuple[list[int], list[int]]:
    """Of each input and output of a program."""
    inputs, outputs = (int(n) for n in words[4:6])
    return words[6 : 6 + inputs].tolist(), words[6 + inputs : 6 + inputs + outputs].tolist()


def _pointers(arrays: Sequence[np.ndarray]) -> ctypes.Array:
    return (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))


def _call(function, *args) -> None:
    error = ctypes.create_string_buffer(ERROR_BYTES)
    if function(*args, error):
        raise EngineError(error.value.decode(errors="replace"))
