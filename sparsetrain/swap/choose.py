"""Exchange each layer for the form that is the fastest on this machine.

Each layer is timed alone on input of the shape that it gets, dense and sparse, in turns. The forms
of all of them are those of the least sum of times, conversions between a dense and a sparse
neighbour included. Then the whole model is timed, dense and so: where it is not faster, the better
half of the sparse layers stays sparse, until it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.methods.method import plain
from sparsetrain.nn import SparseLayer
from sparsetrain.shrink.changes import remember
from sparsetrain.support import timings
from sparsetrain.support.nearest import unknown
from sparsetrain.support.sample import encoded_or_none
from sparsetrain.support.timings import Cache, Times
from sparsetrain.swap import measure
from sparsetrain.swap.exchange import pack_
from sparsetrain.swap.report import FORMS, TIMES, Report, Row
from sparsetrain.swap.sites import Calls, Site, sites
from sparsetrain.swap.trial import Forms, Trial, trying

SLOWER = "dense is the fastest"
NO_GAIN = "the model is not faster with it sparse"
NOT_CALLED = "it is not called on the sample"
Force = str | Mapping[str, str] | None


def sparsify(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    sample: Any,
    *,
    optimizer: Optimizer | None = None,
    training: bool | None = None,
    force: Force = None,
    cache: str | Path | None = "auto",
) -> Report:
    """Exchange layers that masks prune for sparse ones where that is faster, in place.

    A sparse layer holds and trains its live weights alone; activations stay in the kernels' layout
    between such layers. On the CPU in fp32; what cannot be sparse, and what is no faster, stays the
    module that it is, in the memory format that it has. With the number of threads that is to be,
    and a sample of the batch that is to come, the model never gets slower than it was. `densify`
    undoes all of this exactly. Which forms are chosen hangs on this machine; they compute the same
    numbers to rounding, and `force` takes the forms of a report from elsewhere. But an infinite or
    NaN activation meets live weights alone, where a dense layer makes NaN of it and a pruned 0.

    Args:
        masks: parameter name -> bool mask, true = kept, as a method's `masks`; what they prune
            must be 0.
        sample: one input, or a tuple or dict of them, as the model takes it.
        optimizer: the one that trains the model, if one does: live weights take the places of
            weights in its groups, with their momentum or moments.
        training: what is to be fast, forward and backward, or forward alone; by default as
            model.training says.
        force: a form for all layers instead of measuring, "dense", "unstructured", "vector" (where
            outputs share their inputs) or "sparse" (the last two, whichever can be); or
            {layer: form}, the others dense.
        cache: folder in which measurements are kept: by default $SPARSETRAIN_CACHE, or
            ~/.cache/sparsetrain; None to keep none.

    Raises:
        ValueError, TypeError: a mask does not fit the model, or what is forced cannot be. Whatever
            is raised, model and optimizer are as they were.
    """
    model = plain(model)
    training = model.training if training is None else training
    found = sites(model, masks)
    forced = None if force is None else _forced(force, found)
    with trying(model, found, sample, training) as trial:
        choice = _Choice(trial, Cache(cache))
        if forced is None:
            choice.measure()
            choice.cache.write()
        else:
            choice.take(forced)
    layers = pack_(model, trial.packings(choice.forms), optimizer, reuse=trial.sparse)
    remember(model, (), sample=encoded_or_none(sample))
    return choice.report(found, layers)


class _Choice:
    """Layer -> form, and why."""

    def __init__(self, trial: Trial, cache: Cache) -> None:
        self.trial, self.cache = trial, cache
        self.forms: dict[str, str] = {}
        self.times: dict[str, Times] = {}
        self.why = {n: NOT_CALLED for n in trial.able if n not in trial.calls}
        self.whole: dict[str, float] = {}

    def take(self, forms: Forms) -> None:
        """These forms, where the model runs with them."""
        called = {n: form for n, form in forms.items() if n in self.trial.calls}
        self._fit({n: form for n, form in called.items() if form != "dense"})

    def measure(self) -> None:
        """The forms that are the fastest."""
        trial = self.trial
        self.times = {n: self._layer(trial.able[n], trial.calls[n]) for n in trial.order}
        cheap = cheapest([self.times[n] for n in trial.order])
        forms = dict(zip(trial.order, cheap, strict=True))
        self.why |= {n: SLOWER for n, form in forms.items() if form == "dense"}
        self._fit({n: form for n, form in forms.items() if form != "dense"})
        while self.forms:
            self.whole = self._model(self.forms)
            if self.whole["sparse"] < self.whole["dense"]:
                return
            better = sorted(self.forms, key=self._gain, reverse=True)
            self.why |= dict.fromkeys(better[len(better) // 2 :], NO_GAIN)
            self._fit({n: forms[n] for n in better[: len(better) // 2]})
            self.whole = {}

    def report(self, found: list[Site], layers: Mapping[nn.Module, SparseLayer]) -> Report:
        rows = []
        for site in found:
            sparse = layers.get(site.module)
            row = Row(
                site.name,
                tuple(site.mask.shape),
                site.sparsity,
                self.forms.get(site.name, "dense"),
                1 if sparse is None else sparse.weight.shape[1],
                sparse is not None and sparse.output == "blocked",
                {k: ms for k, ms in self.times.get(site.name, {}).items() if k in TIMES},
                site.why or self.why.get(site.name, ""),
            )
            rows.append(row)
        whole = (self.whole.get("dense"), self.whole.get("sparse"))
        return Report(tuple(rows), self.trial.training, torch.get_num_threads(), *whole)

    def _gain(self, name: str) -> float:
        return self.times[name]["dense"] - self.times[name][self.forms[name]]

    def _fit(self, forms: Forms) -> None:
        """Hold these forms, but for layers with which the model does not run."""
        self.forms = dict(forms)
        if not forms or not self.trial.fit(forms):
            return
        self.forms = {}
        for name, form in forms.items():
            why = self.trial.fit({**self.forms, name: form})
            if why:
                self.why[name] = why
            else:
                self.forms[name] = form
        self.trial.fit(self.forms)

    def _layer(self, site: Site, calls: Calls) -> Times:
        """Form -> ms of all of a layer's calls, from the cache where it was measured before."""
        layer, training = site.module, self.trial.training
        case = {
            "layer": repr(layer),
            "x": [list(calls.shape), list(calls.stride), calls.grad],
            "needs": [training, [p.requires_grad for p in layer.parameters()]],
            "mask": _about(site),
        }
        times = self.cache.times(
            case,
            lambda: timings.milliseconds(measure.layer_thunks(site, calls, training)),
            needed=("dense",),
        )
        return {form: ms * calls.count for form, ms in times.items()}

    def _model(self, forms: dict[str, str]) -> Times:
        """ms of the whole model, "dense" and, with layers in these forms, "sparse"."""
        trial = self.trial
        case = {
            "model": repr(trial.model),
            "x": [[n, list(c.shape), list(c.stride), c.count] for n, c in trial.calls.items()],
            "needs": [trial.training, [p.requires_grad for p in trial.model.parameters()]],
            "masks": {name: [form, *_about(trial.able[name])] for name, form in forms.items()},
        }
        return self.cache.times(
            case, lambda: timings.milliseconds(trial.turns(forms)), needed=("dense", "sparse")
        )


def _about(site: Site) -> list[float]:
    """Of a mask, what times depend on: two digits of its density, and its groups."""
    return [float(f"{1 - site.sparsity:.2g}"), site.v]


def cheapest(times: list[Times]) -> list[str]:
    """The form of each layer, in the order of their calls, of the least sum of times.

    A layer whose neighbour before it is of the other kind, dense or sparse, also pays its "border";
    what comes before the first is dense.
    """
    best: dict[str, tuple[float, list[str]]] = {"dense": (0.0, [])}
    for each in times:
        border, reached = each.get("border", 0.0), {}
        for form in (f for f in each if f in FORMS):
            ways = [
                (cost + each[form] + border * ((form == "dense") != (before == "dense")), path)
                for before, (cost, path) in best.items()
            ]
            cost, path = min(ways, key=lambda way: way[0])
            reached[form] = (cost, [*path, form])
        best = reached
    return min(best.values(), key=lambda way: way[0])[1]


def _forced(force: str | Mapping[str, str], found: list[Site]) -> dict[str, str]:
    """Layer -> form; a form for all of them is taken where it can be."""
    by_name = {site.name: site for site in found}
    if isinstance(force, str):
        if force not in (*FORMS, "sparse"):
            raise unknown("form", force, (*FORMS, "sparse"))
        forms = {n: _possible(force, site) for n, site in by_name.items()}
        return {n: form for n, form in forms.items() if form}
    for name, form in force.items():
        if name not in by_name:
            raise unknown("masked layer", name, by_name, listed=False)
        if form not in FORMS:
            raise unknown("form", form, FORMS)
        if form != "dense" and _possible(form, by_name[name]) != form:
            why = by_name[name].why or "its outputs share no inputs"
            raise ValueError(f"sparsify: {name} cannot be {form}: {why}")
    return dict(force)


def _possible(form: str, site: Site) -> str:
    """The form that a layer takes; "dense" where it cannot."""
    if site.why or form == "dense" or (form == "vector" and site.v == 1):
        return "dense"
    return ("vector" if site.v > 1 else "unstructured") if form == "sparse" else form
