"""A module lowered, run by the reference at another batch than was recorded, and compared."""

import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sparsetrain.engine import reference
from sparsetrain.engine.lower import Lowered, lowered
from sparsetrain.engine.lower.names import named_inputs, named_outputs
from sparsetrain.shrink import arguments

BATCH = 3  # of the comparison; the lowering records others


class Net(nn.Module):
    """A function as a model, of these modules."""

    def __init__(self, function: Any, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return self.function(self, *args, **kwargs)


def equal(model: nn.Module, sample: Any, batch: int = BATCH) -> Lowered:
    """The lowered model, which was found to be equal to it."""
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lowered(model, sample)
    args, kwargs = arguments(sample)
    first = next(iter(named_inputs(model, args, kwargs, Tensor).values())).shape[0]
    other = tree_map_only(
        Tensor, lambda t: _another(t, batch) if t.shape[:1] == (first,) else t, (args, kwargs)
    )
    with torch.no_grad():
        wanted = named_outputs(model(*other[0], **other[1]), Tensor)
    inputs = named_inputs(model, *other, Tensor)
    results = reference.run(found.program, found.tensors, inputs)
    assert results.keys() == wanted.keys()
    for name, y in wanted.items():
        torch.testing.assert_close(results[name], y, rtol=1e-4, atol=1e-5)
    return found


def kinds(found: Lowered) -> Counter[str]:
    """How many operations there are of each kind."""
    return Counter(op.kind for op in found.program.ops)


def _another(t: Tensor, batch: int) -> Tensor:
    """Other entries of the same sort."""
    if t.is_floating_point():
        return torch.randn(batch, *t.shape[1:])
    return t[torch.arange(batch) % len(t)].flip(-1)
