"""Read a pickle of plain data and uint8 arrays, and run nothing that is in it.

A pickle is a program: it may call any function that it can name. CIFAR's are downloaded from
wherever a user found them, so here a name leads to one of four stand-ins or to an error. The
stand-ins never reach numpy: its own constructors take object arrays, whose bytes are pointers,
and dtype states that lie about them. An array is its shape and its bytes until both are checked.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from sparsetrain.data.images import DataError


def plain_pickle(path: Path) -> Any:
    """What the file holds: dicts, lists, tuples, bytes, str, numbers, None and uint8 arrays.

    Text of Python 2 comes as bytes. Arrays come as `PlainArray`; `array()` checks and returns one.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, path).load()
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{path}: damaged pickle ({type(error).__name__}: {error})") from None


class PlainArray:
    """What a pickle says of an array: attributes of any type and any value, until checked."""

    __slots__ = ("dtype", "fortran", "raw", "shape")

    def __init__(self) -> None:
        self.shape, self.dtype, self.fortran, self.raw = (), None, False, b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def array(self, path: Path) -> np.ndarray:
        """The uint8 array, read-only; an error names `path`."""
        shape, code, raw = self.shape, getattr(self.dtype, "code", None), self.raw
        if code not in ("u1", b"u1", "|u1", b"|u1"):
            raise DataError(f"{path}: needs an array of uint8 (u1), got {code!r}")
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
            raise DataError(f"{path}: needs an array's shape, got {shape!r}")
        if not isinstance(raw, bytes) or len(raw) != _product(shape):
            size = f"{len(raw)} bytes" if isinstance(raw, bytes) else type(raw).__name__
            raise DataError(f"{path}: an array of shape {shape} needs its bytes, got {size}")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if self.fortran else "C")


class _PlainType:
    __slots__ = ("code",)

    def __init__(self, code: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """The byte order and fields of a dtype; one byte has neither."""


class _StandIn:
    """Called by the pickle for a name it may use.

    An instance and not a function or class: without a `__dict__`, a pickle cannot change it.
    """

    __slots__ = ()


class _Reconstruct(_StandIn):
    __slots__ = ()

    def __call__(self, *_: Any) -> PlainArray:  # (type, shape, typecode) of an empty array
        return PlainArray()


class _Type(_StandIn):
    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> _PlainType:
        return _PlainType(code)


class _Encode(_StandIn):
    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:  # how Python 3 writes bytes for 2
        if encoding != "latin1":
            raise ValueError(f"bytes in {encoding!r}")
        return text.encode("latin1")


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy", "ndarray"): _StandIn(),  # named as an argument, never called
    ("numpy", "dtype"): _Type(),
    ("_codecs", "encode"): _Encode(),
}


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise DataError(
                f"{self._path}: refused, the pickle asks for {module}.{name}; "
                "a CIFAR file needs only lists, dicts, text and numpy arrays"
            )
        return ALLOWED[module, name]


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product
