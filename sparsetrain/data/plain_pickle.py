"""Read a pickle of plain data and uint8 arrays, and run nothing that is in it.

A pickle is a program for a machine with a stack: it may call any function that it can name, and
ask for memory and time as it likes. CIFAR's are downloaded from wherever a user found them, so here
its instructions, as pickletools reads them, are carried out one by one: those that plain data
needs, so many at most, and a name leads to one of four meanings or to an error. Nothing reaches
numpy: its own constructors take object arrays, whose bytes are pointers. An array is its shape and
its bytes until both are checked, and what is unchecked is never compared, hashed or shown.
"""

import pickletools
from codecs import escape_decode  # type: ignore[attr-defined]
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sparsetrain.data.images import DataError
from sparsetrain.support.reading import bytes_of

LARGEST = 2**28  # bytes of a file; CIFAR-100's training images are 155 MB
MOST = 2_000_000  # instructions; CIFAR-100's training images need 200,000
NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy", "ndarray"): "only named",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "bytes",  # how Python 3 writes bytes for Python 2
}
OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
VALUES = {  # instructions whose argument is what they push
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
IDLE = {"PROTO", "FRAME"}
MOST_AXES, LONGEST_AXIS = 4, 2**32


def plain_pickle(path: Path) -> Any:
    """What the file holds: dicts, lists, tuples, bytes, str, numbers, None and uint8 arrays.

    Text of Python 2 comes as bytes. Arrays come as `PlainArray`; `array()` checks and returns one.

    Raises:
        DataError: it is missing, larger than can be meant, damaged, or asks for anything else.
    """
    raw = file_of(path)
    try:
        return _Machine(path).run(raw)
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        why = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise DataError(f"{path}: damaged pickle ({why})") from None


def file_of(path: Path) -> bytes:
    """A file of a data set, as a whole."""
    try:
        return bytes_of(path, LARGEST)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


class PlainArray:
    """What a pickle says of an array: attributes of any type and any value, until checked."""

    def __init__(self) -> None:
        self.shape, self.dtype, self.fortran, self.raw = (), None, False, b""

    def array(self, path: Path) -> np.ndarray:
        """The uint8 array, read-only; an error names `path`."""
        shape, code, raw = self.shape, getattr(self.dtype, "code", None), self.raw
        code = code.decode("latin-1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or code not in ("u1", "|u1"):
            got = repr(code[:20]) if isinstance(code, str) else type(code).__name__
            raise DataError(f"{path}: needs an array of uint8 (u1), got {got}")
        if not (isinstance(shape, tuple) and len(shape) <= MOST_AXES and all(map(_axis, shape))):
            raise DataError(f"{path}: needs an array's shape, got {type(shape).__name__}")
        if not isinstance(raw, bytes) or len(raw) != _product(shape):
            size = f"{len(raw)} bytes" if isinstance(raw, bytes) else type(raw).__name__
            raise DataError(f"{path}: an array of shape {shape} needs its bytes, got {size}")
        order = "F" if self.fortran is True else "C"
        return np.frombuffer(raw, np.uint8).reshape(shape, order=order)


class _PlainType:
    """A dtype's code; one byte has neither an order of bytes nor fields."""

    def __init__(self, code: Any) -> None:
        self.code = code


class _Name:
    """What a pickle calls a function or class: one of `NAMES`."""

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning


class _Machine:
    """Stack, marks and memo of one pickle; a method for each instruction, by its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._encoded = 0

    def run(self, raw: bytes) -> Any:
        for count, (name, argument) in enumerate(_instructions(raw)):
            if count >= MOST:
                raise ValueError(f"more than {MOST:,} instructions")
            if name in VALUES:
                self._stack.append(argument)
            elif name in CONSTANTS:
                self._stack.append(CONSTANTS[name]())
            elif name == "STOP":
                return self._stack.pop()
            elif name not in IDLE:
                act = getattr(self, f"_{name.lower()}", None)
                if act is None:
                    raise ValueError(f"{name} is not for plain data")
                act() if argument is None else act(argument)
        raise ValueError("it has no end")

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _since_mark(self) -> list[Any]:
        at = self._marks.pop()
        items = self._stack[at:]
        del self._stack[at:]
        return items

    def _pop(self) -> None:
        self._stack.pop()

    def _pop_mark(self) -> None:
        self._since_mark()

    def _list(self) -> None:
        self._stack.append(self._since_mark())

    def _tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _tuple1(self) -> None:
        self._last(1)

    def _tuple2(self) -> None:
        self._last(2)

    def _tuple3(self) -> None:
        self._last(3)

    def _last(self, count: int) -> None:
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _dict(self) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._set(items)

    def _append(self) -> None:
        self._extend([self._stack.pop()])

    def _appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ValueError("appends to what is no list")
        self._stack[-1].extend(items)

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        keys = items[::2]
        if not isinstance(self._stack[-1], dict):
            raise ValueError("sets items of what is no dict")
        if not all(isinstance(key, str | bytes | int) for key in keys):
            raise ValueError("a key is neither text nor a number")
        self._stack[-1].update(zip(keys, items[1::2], strict=True))

    def _put(self, at: int) -> None:
        self._memo[at] = self._stack[-1]

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, at: int) -> None:
        if at not in self._memo:
            raise ValueError("gets what was not put")
        self._stack.append(self._memo[at])

    _binput = _long_binput = _put
    _binget = _long_binget = _get

    def _global(self, name: str) -> None:
        self._named(*name.split(" ", 1))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name is no text")
        self._named(module, name)

    def _named(self, module: str, name: str) -> None:
        if (module, name) not in NAMES:
            raise DataError(
                f"{self._path}: refused, the pickle asks for {module[:50]}.{name[:50]}; "
                "a CIFAR file needs only lists, dicts, text and numpy arrays"
            )
        self._stack.append(_Name(NAMES[module, name]))

    def _reduce(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        meaning = name.meaning if isinstance(name, _Name) else ""
        if not isinstance(arguments, tuple):
            raise ValueError("arguments are no tuple")
        if meaning == "array":  # of (type, shape, typecode): empty, so far
            self._stack.append(PlainArray())
        elif meaning == "dtype" and arguments:
            self._stack.append(_PlainType(arguments[0]))
        elif meaning == "bytes":
            self._stack.append(self._encode(*arguments))
        else:
            raise ValueError("calls what is no function")

    def _encode(self, text: Any, encoding: Any) -> bytes:
        if not (isinstance(text, str) and isinstance(encoding, str) and encoding == "latin1"):
            raise ValueError("bytes in an encoding that is not latin1")
        self._encoded += len(text)
        if self._encoded > LARGEST:  # one text, again and again
            raise ValueError(f"more than {LARGEST:,} bytes")
        return text.encode("latin1")

    def _build(self) -> None:
        state, built = self._stack.pop(), self._stack[-1]
        if isinstance(built, PlainArray) and isinstance(state, tuple) and len(state) == 5:
            _, built.shape, built.dtype, built.fortran, built.raw = state
        elif not isinstance(built, _PlainType):
            raise ValueError("sets a state of what has none")


def _instructions(raw: bytes) -> Iterator[tuple[str, Any]]:
    """Name and argument of each; what is cut off is a ValueError, whatever length it names."""
    stream = BytesIO(raw)
    while code := stream.read(1):
        if code == b"S":  # in Python 2's text, other bytes than ASCII's are escaped
            yield "STRING", escape_decode(stream.readline().strip()[1:-1])[0]
            continue
        known = OPCODES.get(code.decode("latin-1"))
        if known is None:
            raise ValueError("an unknown instruction")
        argument = None if known.arg is None else known.arg.reader(stream)
        if known.name in ("BINSTRING", "SHORT_BINSTRING"):
            argument = str(argument).encode("latin-1")
        yield known.name, argument


def _axis(length: Any) -> bool:
    return type(length) is int and 0 <= length < LONGEST_AXIS


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product
