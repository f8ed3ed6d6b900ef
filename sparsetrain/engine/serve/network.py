"""What is served: a callable on named arrays that says what goes in and out.

A network is batched where each input and output has the batch as its first axis, and only there:
then rows of several requests are computed in one call. Others compute one request a call.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sparsetrain.engine.serve.refusal import Refusal

Arrays = dict[str, np.ndarray]


class TensorSpec(Protocol):
    """`shape` has None for the batch; `dtype` is numpy's name."""

    @property
    def shape(self) -> tuple[int | None, ...]: ...
    @property
    def dtype(self) -> str: ...


class Network(Protocol):
    """The call releases the interpreter's lock while it computes."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...
    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    def __call__(self, arrays: Arrays, /) -> Any: ...


@dataclass(frozen=True)
class Signature:
    """A network's name, inputs and outputs; `most` is the largest batch."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    most: int

    @classmethod
    def of(cls, network: Network, most: int) -> "Signature":
        return cls(network.name, dict(network.inputs), dict(network.outputs), most)

    @property
    def batched(self) -> bool:
        specs = [*self.inputs.values(), *self.outputs.values()]
        return all(s.shape[:1] == (None,) and None not in s.shape[1:] for s in specs)

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """
        Raises:
            Refusal: an input's shape is not what the network takes.
        """
        wanted = self.inputs[name].shape
        if len(shape) != len(wanted) or any(
            w not in (None, s) for w, s in zip(wanted, shape, strict=True)
        ):
            raise Refusal(
                400, f"{self.name}: input {name} must be {shown(wanted)}, got {shown(shape)}"
            )

    def items(self, arrays: Arrays) -> int:
        """Rows of a request, which all inputs have in common; 1 where there are no batches.

        Raises:
            Refusal: inputs are missing, differ in their batch, or have too many rows.
        """
        if missing := [name for name in self.inputs if name not in arrays]:
            raise Refusal(400, f"{self.name}: input {', '.join(missing)} is missing")
        batches = {name: self._batch(name, array) for name, array in arrays.items()}
        sizes = {size for size in batches.values() if size is not None}
        if len(sizes) > 1:
            raise Refusal(400, f"{self.name}: inputs differ in their batch: {batches}")
        size = sizes.pop() if sizes else 1
        if not 1 <= size <= self.most:
            raise Refusal(400, f"{self.name}: a batch has 1 to {self.most} items, got {size}")
        return size if self.batched else 1

    def _batch(self, name: str, array: np.ndarray) -> int | None:
        wanted = self.inputs[name].shape
        return array.shape[wanted.index(None)] if None in wanted else None

    def zeros(self, items: int) -> Arrays:
        """Inputs for a batch of `items`, or of 1 where the network has no batches."""
        items = items if self.batched else 1
        return {
            name: np.zeros([items if n is None else n for n in spec.shape], spec.dtype)
            for name, spec in self.inputs.items()
        }


def shown(shape: tuple[int | None, ...]) -> str:
    """[batch, 3, 224, 224]"""
    return f"[{', '.join('batch' if n is None else str(n) for n in shape)}]"


def called(network: Network, arrays: Arrays) -> Arrays:
    """The network's outputs by name, also where it has one and returns it plainly."""
    found = network(arrays)
    return found if isinstance(found, dict) else {next(iter(network.outputs)): np.asarray(found)}
