"""Other ways to run a sparse layer on a CPU; those of packages that are not installed are left out.

    pip install "sparsetrain[rivals]"

torch CSR        forward by MKL's sparse product; dx by that of the transpose, dw by sampled_addmm
SparseProp       Nikdan et al., "SparseProp", ICML 2023; the faster of its two convolutions
sparselab        padded CSR, linear layers only
"""

import importlib.metadata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.bench.contenders import Contender, Data, Tensors, inferrer, stepper
from sparsetrain.bench.layer_problems import Form
from sparsetrain.measure.timing import seconds

PACKAGES = ("sparseprop", "sparselab", "onnxruntime", "openvino")
MISSING = "not installed"
OWN_THREADS = "sparselab"  # brings an OpenMP of its own, whose threads spin after their work,
SPIN_S = 5e-3  # at most so long


def versions() -> dict[str, str]:
    """Package -> version, or that it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def installed(name: str) -> bool:
    return _version(name) != MISSING


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch's number of threads, and that of the OpenMP which packages bring with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        if not installed(OWN_THREADS):
            yield
            return
        import sparselab  # noqa: F401  (only what is loaded can be limited)
        from threadpoolctl import threadpool_limits

        with threadpool_limits(count, user_api="openmp"):
            yield
    finally:
        torch.set_num_threads(before)


def of(data: Data, form: Form) -> list[Contender]:
    """Those that can run the layer with this mask."""
    mask = data.mask(form)
    module = data.dense(mask)
    if isinstance(module, nn.Conv2d):
        return _sparseprop_conv(data, form, module) if installed("sparseprop") else []
    found = [_csr(data, form, module, mask)]
    if installed("sparseprop"):
        found.append(_sparseprop_linear(data, form, module))
    if installed(OWN_THREADS):
        found.append(_sparselab(data, form, module))
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def _csr(data: Data, form: Form, module: Any, mask: Tensor) -> Contender:
    x, dy, weight = data.x, data.dy, module.weight.detach()
    with _quiet():
        csr, transposed = weight.to_sparse_csr(), weight.t().contiguous().to_sparse_csr()
        nothing = (weight * 0 + mask).to_sparse_csr()
    nothing.values().zero_()

    def forward() -> Tensors:
        with torch.no_grad():
            return ((csr @ x.t()).t(),)

    def step() -> Tensors:
        y = forward()[0]
        dx = (transposed @ dy.t()).t()
        return y, dx, torch.sparse.sampled_addmm(nothing, dy.t(), x, beta=0.0)

    plain = (lambda y: y, lambda dx: dx, lambda dw: dw.to_dense())
    return Contender("torch CSR", form, int(mask.count_nonzero()), forward, step, plain)


def _sparseprop_conv(data: Data, form: Form, module: nn.Conv2d) -> list[Contender]:
    from sparseprop.modules.conv2d import SparseConv2d
    from sparseprop.modules.utils import from_sparse_format_conv2d

    def dense(layer: Any) -> Callable[[Tensor], Tensor]:
        return lambda dw: from_sparse_format_conv2d(dw.contiguous(), layer.W_idx, data.weight.shape)

    both = []
    for along_width in (False, True):
        layer = SparseConv2d.from_dense(module, along_width)
        both.append(_of_module("SparseProp", data, form, (layer, layer.W_val), dense(layer)))
    forward = _faster(c.forward for c in both)
    return [replace(both[0], forward=forward, step=_faster(c.step for c in both if c.step))]


def _faster(thunks: Iterable[Callable[[], Tensors]]) -> Callable[[], Tensors]:
    """As SparseProp chooses, by one call, after one that warms up."""
    return min(thunks, key=lambda thunk: (thunk(), seconds(thunk, "cpu"))[1])


def _sparseprop_linear(data: Data, form: Form, module: nn.Linear) -> Contender:
    from sparseprop.modules.linear import SparseLinear
    from sparseprop.modules.utils import from_csr_2d

    layer = SparseLinear.from_dense(module)
    shape = tuple(data.weight.shape)
    parts = (layer, layer.W_val)
    return _of_module(
        "SparseProp", data, form, parts, lambda dw: from_csr_2d(dw, layer.W_idx, shape)
    )


def _sparselab(data: Data, form: Form, module: nn.Linear) -> Contender:
    import numpy as np
    import sparselab

    layer = sparselab.SparseLinear(module.in_features, module.out_features, bias=False)
    with _quiet():
        csr = sparselab.PaddedCSR.from_dense(module.weight.detach())
        layer._csr = csr
        layer._values = nn.Parameter(torch.from_numpy(np.asarray(csr.values)))
    capacity, columns = (
        torch.from_numpy(np.array(a)).long() for a in (csr.row_capacity, csr.col_indices)
    )
    rows = torch.arange(module.out_features).repeat_interleave(capacity)
    used = columns >= 0

    def dense(dw: Tensor) -> Tensor:
        weight = torch.zeros_like(data.weight)
        weight[rows[used], columns[used]] = dw[used]
        return weight

    return _of_module(OWN_THREADS, data, form, (layer, layer._values), dense)


def _of_module(
    name: str,
    data: Data,
    form: Form,
    parts: tuple[nn.Module, Tensor],
    dense: Callable[[Tensor], Tensor],
) -> Contender:
    """A module whose weight is a parameter of live values."""
    layer, values = parts
    forward, step = inferrer(layer, data.x), stepper(layer, values, data.x, data.dy)
    live = int(data.mask(form).count_nonzero())
    return Contender(name, form, live, forward, step, (lambda y: y, lambda dx: dx, dense))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of tensors that are read only, and of CSR being in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
