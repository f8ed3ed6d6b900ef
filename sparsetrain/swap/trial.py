"""The model with some of its layers sparse, tried on the sample and taken back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsetrain.nn import Blocked, SparseLayer
from sparsetrain.support.modes import quietly
from sparsetrain.swap.exchange import Packing, densify, pack_
from sparsetrain.swap.measure import gradients
from sparsetrain.swap.sites import Site, hooked, run, watching

LEAKS = "its output would not be a tensor"
TOLERANCE = 0.02  # of the output's norm: far above rounding, far below what a wrong layer does
Forms = Mapping[str, str]  # layer -> form


class Trial:
    """A model whose layers can be packed for a while; dense before and after.

    Attributes:
        calls: of each layer, in one dense run.
        sparse: the sparse layers that were last made, by their dense ones.
    """

    def __init__(self, model: nn.Module, found: list[Site], sample: Any, training: bool) -> None:
        self.model, self.sample, self.training = model, sample, training
        self.able = {site.name: site for site in found if not site.why}
        self.sparse: dict[nn.Module, SparseLayer] = {}
        self._hooked = hooked(model)
        modules = {name: site.module for name, site in self.able.items()}
        with watching(modules) as self.calls:
            self._wanted, self._flows = self._run({n: m.weight for n, m in modules.items()})
        self.order = sorted(self.calls, key=lambda name: self.calls[name].order)

    def packings(self, forms: Forms) -> dict[nn.Module, Packing]:
        sites = {name: self.able[name] for name, form in forms.items() if form != "dense"}
        return {
            site.module: Packing(site.mask, site.v if forms[name] == "vector" else 1)
            for name, site in sites.items()
        }

    @contextmanager
    def packed(self, forms: Forms) -> Iterator[dict[str, SparseLayer]]:
        """The model with layers in these forms, which are yielded in the order of their calls."""
        densify(self.model)
        try:
            self.sparse = pack_(self.model, self.packings(forms))
            layers = {self._name(dense): layer for dense, layer in self.sparse.items()}
            yield {name: layers[name] for name in self.order if name in layers}
        finally:
            densify(self.model)

    def fit(self, forms: Forms) -> str:
        """Keep activations blocked between layers wherever the model still runs right.

        Returns:
            Why the model does not run with these layers; "" if it does.
        """
        with self.packed(forms) as layers:
            if not self._hooked and self._all_blocked(layers):
                return ""
            for layer in layers.values():
                layer.output = "dense"
            why = self._misfit(layers)
            if not why and not self._hooked:
                for layer in layers.values():
                    layer.output = "blocked"
                    if self._misfit(layers):
                        layer.output = "dense"
            return why

    def turns(self, forms: Forms) -> dict[str, Callable[[], object]]:
        """Runs of the model, dense and with these layers, to be timed in turns."""
        packings, sparse = self.packings(forms), self.sparse

        def dense() -> object:
            densify(self.model)
            return self._step

        def packed() -> object:
            pack_(self.model, packings, reuse=sparse)
            return self._step

        return {"dense": dense, "sparse": packed}

    def _all_blocked(self, layers: dict[str, SparseLayer]) -> bool:
        """All but the last layers, as far as the model's output depends on them directly."""
        for layer in layers.values():
            layer.output = "blocked"
        for layer in reversed(layers.values()):
            layer.output = "dense"
            why = self._misfit(layers)
            if why != LEAKS:
                return not why
        return False

    def _misfit(self, layers: dict[str, SparseLayer]) -> str:
        """What goes wrong with the layers as they are; "" if nothing does."""
        weights = {name: layer.weight for name, layer in layers.items()}
        try:
            output, flows = self._run(weights)
        except Exception as error:
            lines = str(error).strip().splitlines()
            return f"the model does not run with it sparse: {lines[0] if lines else repr(error)}"
        if any(isinstance(leaf, Blocked) for leaf in output):
            return LEAKS
        if any(flows[name] != self._flows[name] for name in layers):
            return "no gradient reaches it where it is sparse"
        same = len(output) == len(self._wanted) and all(map(_close, output, self._wanted))
        return "" if same else "the model's output differs where it is sparse"

    def _run(self, weights: Mapping[str, Any]) -> tuple[list[Any], dict[str, bool]]:
        """The output's leaves, and which weights a gradient reaches in training."""
        torch.manual_seed(0)  # of a model that draws: the state around the trial is kept
        with torch.set_grad_enabled(self.training):
            output = run(self.model, self.sample)
        leaves = tree_leaves(output, is_leaf=lambda y: isinstance(y, Blocked))
        if not self.training:
            return leaves, dict.fromkeys(weights, False)
        asked = {name: w for name, w in weights.items() if w.requires_grad}
        found = dict(zip(asked, gradients(leaves, list(asked.values())), strict=True))
        leaves = [y.detach() if isinstance(y, Tensor) else y for y in leaves]
        return leaves, {name: found.get(name) is not None for name in weights}

    def _step(self) -> None:
        with torch.set_grad_enabled(self.training):
            output = run(self.model, self.sample)
            if self.training:
                gradients(output, [p for p in self.model.parameters() if p.requires_grad])

    def _name(self, dense: nn.Module) -> str:
        return next(name for name, site in self.able.items() if site.module is dense)


@contextmanager
def trying(model: nn.Module, found: list[Site], sample: Any, training: bool) -> Iterator[Trial]:
    """A trial, after which the model's modes, statistics and gradients are as before."""
    grads = [(p, p.grad) for p in model.parameters()]
    for parameter, _ in grads:
        parameter.grad = None
    try:
        with quietly(model, training):
            try:
                yield Trial(model, found, sample, training)
            finally:
                densify(model)
    finally:
        for parameter, grad in grads:
            parameter.grad = grad


def _close(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, Tensor):
        return isinstance(found, type(wanted))
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return False
    found, wanted = found.double(), wanted.double()
    if not bool(wanted.isfinite().all()):
        return True
    return bool((found - wanted).norm() <= TOLERANCE * wanted.norm() + 1e-6)
