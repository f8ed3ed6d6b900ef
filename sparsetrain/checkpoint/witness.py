"""What a network computes on a small sample, in a few numbers: a loaded one must compute the same.

Of each output that is a tensor of floats: its shape, entries at up to 64 places spread over it, and
the root of its mean square, in evaluation mode. They are compared relative to the largest output
that was saved: rounding differs from machine to machine, in single precision more than the
tolerance where a network makes much of it; then the same in double precision decides.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.checkpoint.file import CheckpointError
from sparsetrain.shrink import arguments
from sparsetrain.shrink.changes import remember, removal_of
from sparsetrain.shrink.proof import exactly
from sparsetrain.shrink.record import SEED, tensors_of
from sparsetrain.support import sample as samples
from sparsetrain.support.modes import quietly
from sparsetrain.support.reading import reading
from sparsetrain.support.schema import Anything, Each, Fields, Maybe, Number, Text
from sparsetrain.support.wrapped import unwrapped

PLACES = 64
# Relative to the largest output: of the outputs' own dtype, and of double precision.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 0.1, torch.float16: 0.03}
EXACT = 1e-5
ALONE = 100  # times the tolerance, where there is no double precision to decide
EXACT_PARAMETERS = 10**8  # up to which the network is run in double precision, too
OUTPUT = Fields(
    {
        "shape": Each(Number(whole=True, low=0)),
        "dtype": Text(tuple(map(str, TOLERANCE))),
        "entries": Each(Number()),
        "size": Number(low=0),
        "largest": Number(low=0),
    }
)
OUTPUTS = Each(OUTPUT)
WITNESS = Maybe(Fields({"sample": Anything(), "outputs": OUTPUTS, "exact": Maybe(OUTPUTS)}))
Output = Mapping[str, Any]


def witness_of(model: nn.Module, sample: Any = None, exact: bool = True) -> dict[str, Any] | None:
    """{"sample", "outputs", "exact"} for a file; with `exact` in double precision, too.

    None where there is nothing to compare: no sample was given and none is remembered from a
    removal, the model does not run on what is kept of it, or its outputs hang on chance.

    Raises:
        TypeError: a sample that was given cannot be kept in a file.
    """
    inner, _ = unwrapped(model)
    tree = removal_of(inner).about.get("sample") if sample is None else samples.encoded(sample)
    if tree is None:
        return None
    try:
        outputs = _outputs(inner, tree)
        if not outputs or (exact and outputs != _outputs(inner, tree, seed=SEED + 1)):
            return None
    except Exception:  # a model may raise what it likes
        if sample is None:
            return None
        raise
    return {"sample": tree, "outputs": outputs, "exact": _exact(inner, tree) if exact else None}


def check_witness(model: nn.Module, witness: Any, source: str, verify: bool = True) -> None:
    """Compare, and remember the sample, so that the model can be saved with a witness again.

    Raises:
        CheckpointError: the model computes something else than what the file says.
    """
    if witness is None:
        return
    inner, _ = unwrapped(model)
    with reading(source, "checkpoint", CheckpointError):
        WITNESS.check(witness)
        tree = witness["sample"]
        samples.decoded(tree, torch.device("cpu"))
    remember(inner, (), sample=tree)
    if not verify:
        return
    try:
        found = _outputs(inner, tree)
    except Exception as error:  # a model may raise what it likes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the network of {source} does not run: {reason}") from error
    if found is None:
        raise CheckpointError(f"the network of {source} computes what is not finite")
    error = _distance(witness["outputs"], found)
    if error > 1:
        now = None if witness["exact"] is None else _exact(inner, tree)
        error = error / ALONE if now is None else _distance(witness["exact"], now, EXACT)
    if error > 1:
        raise CheckpointError(
            f"{source} was saved from a network that computes something else: on its sample the"
            " outputs differ; was the model built in another way?"
        )


def _outputs(model: nn.Module, tree: Any, seed: int = SEED) -> list[Output] | None:
    """None where one is not finite."""
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    args, kwargs = arguments(samples.decoded(tree, device))
    with torch.no_grad(), quietly(model, False, seed):
        outputs = tensors_of(model(*args, **kwargs))
    found = [_digest(t) for t in outputs if t.dtype in TOLERANCE]
    return found if all(math.isfinite(o["largest"]) for o in found) else None


def _exact(model: nn.Module, tree: Any) -> list[Output] | None:
    """The outputs in double precision, where the model has them.

    Of a copy: some models keep what they compute from their weights, in the precision of the call.
    """
    single = any(p.dtype == torch.float32 for p in model.parameters())
    if not single or sum(p.numel() for p in model.parameters()) > EXACT_PARAMETERS:
        return None
    try:
        twin = copy.deepcopy(model)
        with exactly(twin, tree) as double:
            return _outputs(twin, double)
    except Exception:  # an operation that has no double precision
        return None


def _digest(output: Tensor) -> Output:
    flat = output.detach().flatten().cpu().double()
    count = min(PLACES, len(flat))
    places = torch.arange(count) * len(flat) // max(count, 1)
    return {
        "shape": list(output.shape),
        "dtype": str(output.dtype),
        "entries": flat[places].tolist(),
        "size": float(flat.square().mean().sqrt()) if count else 0.0,
        "largest": float(flat.abs().max()) if count else 0.0,
    }


def _distance(saved: list[Output], found: list[Output], exact: float | None = None) -> float:
    """The largest difference in tolerances: more than 1 is more than rounding."""
    if [o["shape"] for o in saved] != [o["shape"] for o in found]:
        return math.inf
    scale = max([o["largest"] for o in saved], default=0.0) or 1.0
    worst = 0.0
    for a, b in zip(saved, found, strict=True):
        numbers = zip([*a["entries"], a["size"]], [*b["entries"], b["size"]], strict=True)
        error = max(abs(x - y) for x, y in numbers) / scale
        worst = max(worst, error / (exact or TOLERANCE[getattr(torch, a["dtype"][6:])]))
    return worst
