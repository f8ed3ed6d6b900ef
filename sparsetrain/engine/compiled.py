"""A network on the engine, called with PyTorch's tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.engine.prepare import prepared
from sparsetrain.selection.masks import Masks
from sparsetrain_runtime import Network
from sparsetrain_runtime.forms import chosen


class CompiledNetwork:
    """What `compile` returns: call it as the model, in evaluation mode and without gradients.

    Weights are those of the moment of compiling. No tensor is copied on the way in or out.

    Attributes:
        network: a `sparsetrain_runtime.Network`: its inputs, outputs, threads.
    """

    def __init__(self, network: Network) -> None:
        self.network = network

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute the outputs of a batch.

        Args:
            args, kwargs: tensors on the CPU, by position or by name.

        Returns:
            The output, or a dict of them where there are several.

        Raises:
            EngineError: an input is missing, or has another dtype or shape.
        """
        found = self.network(
            *(_array(x) for x in args), **{name: _array(x) for name, x in kwargs.items()}
        )
        if isinstance(found, dict):
            return {name: torch.from_numpy(y) for name, y in found.items()}
        return torch.from_numpy(found)

    def __repr__(self) -> str:
        return f"CompiledNetwork({self.network.name}, {self.network.threads} threads)"


def compile(
    model: nn.Module,
    sample: Any,
    masks: Masks | None = None,
    *,
    threads: int | None = None,
    tune: bool = True,
    batch: bool = True,
) -> CompiledNetwork:
    """Compile a model for inference on this machine's CPU.

    Args:
        model: dense, masked, sparsified or shrunk; it is left as it is.
        sample: one input, or a tuple or dict of them.
        masks: parameter name -> bool mask, as a method's `masks`.
        threads: of one call; None: as many as torch uses now.
        tune: measure which form of each weight is the fastest; False: the smallest one.
        batch: whether other batches than the sample's will be given.

    Raises:
        Undeployable: the model has operations that the engine does not.
        ValueError: the model does not run on the sample, or a mask fits no parameter.
    """
    count = torch.get_num_threads() if threads is None else threads
    found = prepared(model, sample, masks, count, tune, batch)
    program, tensors = chosen(found.program, found.tensors, found.choices)
    return CompiledNetwork(Network(program, tensors, count, type(model).__name__))


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()
