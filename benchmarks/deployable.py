"""Which networks of others the engine can run, and why not the rest.

    python -m benchmarks.deployable --json benchmarks/results/deployable.json --markdown TABLE.md
    python -m benchmarks.deployable --families timm --only resnet

Needs the packages of the extra `coverage`. Each network, with random weights, in a process of its
own. It counts if three are equal to a relative error of 1e-4, with another batch and other entries
than it was recorded with: the network, its program (sparsetrain/engine/lower) run by plain PyTorch
(sparsetrain/engine/reference.py), and the engine; and the last two with a tenth of the weights of
each product, stored and run as live entries alone. Where the batch cannot change, the sample's own
is run. Deep networks with random weights may enlarge a rounding a hundred times: where the first
two are not equal, they are compared with PyTorch in double precision, from which PyTorch's own
distance is told.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._pytree import tree_map_only

from benchmarks.apart import apart, preload
from benchmarks.coverage_models import Case, build, names
from sparsetrain.engine import reference
from sparsetrain.engine.lower import lowered
from sparsetrain.engine.lower.names import named_inputs, named_outputs
from sparsetrain.shrink import arguments
from sparsetrain.support.machine import machine
from sparsetrain_runtime import Network, forms
from sparsetrain_runtime.program import Program

FAMILIES = ("torchvision", "timm", "transformers")
BATCH = 3  # of the comparison; programs are recorded with others
MOST = 1e-4  # the relative error
ROUNDING = 1e-2  # what a larger one is not
PATIENCE = 900  # seconds until a process is stopped


def record(family: str, name: str) -> dict[str, Any]:
    """What came of one network; in a process of its own."""
    torch.set_num_threads(1)
    _draw_quickly()
    case = build(family, name)
    case.model.eval()
    start = time.process_time()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = lowered(case.model, case.sample)
    seconds = time.process_time() - start
    batch = None if found.program.batch is None else BATCH
    return {
        "seconds": seconds,
        "any batch": batch is not None,
        "operations": len(found.program.ops),
        **_errors(case, found, batch),
        "warnings": [str(w.message) for w in said if "deploy:" in str(w.message)],
    }


@torch.no_grad()
def _errors(case: Case, found: Any, batch: int | None) -> dict[str, float]:
    """Largest differences, by the largest number of an output: of the program in PyTorch, of the
    engine, and of the engine with a tenth of the weights."""
    args, kwargs = arguments(case.sample)
    if batch is not None:
        first = len(next(iter(named_inputs(case.model, args, kwargs, Tensor).values())))
        args, kwargs = tree_map_only(Tensor, lambda t: _another(t, first, batch), (args, kwargs))
    wanted = named_outputs(case.model(*args, **kwargs), Tensor)
    given = named_inputs(case.model, args, kwargs, Tensor)
    program, tensors = found.program, found.tensors
    plain = reference.run(program, tensors, given)
    ours = _engine(program, tensors, given, {})
    errors = {"error": _apart(plain, wanted), "engine": _apart(ours, wanted)}
    thin = _thin(program, tensors)
    forms_ = dict.fromkeys(forms.products(program), 1)
    few = reference.run(program, thin, given)
    errors["at 90%"] = _apart(_engine(program, thin, given, forms_), few)
    if MOST < max(errors["error"], errors["engine"]) < ROUNDING:
        exact = _exact(case, args, kwargs)
        errors |= {"error": _apart(plain, exact), "engine": _apart(ours, exact)}
        errors["PyTorch"] = _apart(wanted, exact)
    return errors


def _exact(case: Case, args: Any, kwargs: Any) -> dict[str, Tensor]:
    """What PyTorch finds in double precision."""
    args, kwargs = tree_map_only(
        Tensor, lambda t: t.double() if t.is_floating_point() else t, (args, kwargs)
    )
    return named_outputs(case.model.double()(*args, **kwargs), Tensor)


def _apart(results: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    return max(
        float((results[name] - y).abs().max() / max(float(y.abs().max()), 1e-12))
        for name, y in wanted.items()
        if y.is_floating_point() and y.numel()
    )


def _engine(
    program: Program, tensors: dict[str, Tensor], given: dict[str, Tensor], v: dict[int, int]
) -> dict[str, Tensor]:
    arrays = {name: t.detach().contiguous().numpy() for name, t in tensors.items()}
    network = Network(*forms.chosen(program, arrays, v), 1)
    specs = network.inputs
    inputs = {name: t.numpy().astype(specs[name].dtype) for name, t in given.items()}
    return {name: torch.from_numpy(y) for name, y in network(inputs).items()}


def _thin(program: Program, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The largest tenth of the weights of each product."""
    thin = dict(tensors)
    for i in forms.products(program):
        name = program.ops[i].tensors["weight"]
        size = tensors[name].abs().flatten()
        least = size.kthvalue(max(1, int(0.9 * len(size)))).values
        thin[name] = tensors[name] * (tensors[name].abs() > least)
    return thin


def _another(t: Tensor, first: int, batch: int) -> Tensor:
    """Other entries of the same sort, of another batch."""
    if not t.dim() or len(t) != first:
        return t
    if t.is_floating_point():
        return torch.randn(batch, *t.shape[1:])
    return t[torch.arange(batch) % first].flip(-1)


def _draw_quickly() -> None:
    """Truncated normal numbers take a minute a network; plain ones do as well here."""
    plain = torch.nn.init.normal_
    torch.nn.init.trunc_normal_ = lambda t, mean=0.0, std=1.0, *_, **__: plain(t, mean, std)


def run(family: str, name: str, patience: float) -> dict[str, Any]:
    """The record of one network, with whether it counts, and the reason why not."""
    found: dict[str, Any] = {"family": family, "name": name}
    try:
        found |= apart(patience, record, family, name)
    except RuntimeError as error:
        return found | {"counts": False, "reason": str(error).removeprefix("Undeployable: ")}
    own = f"; PyTorch itself by {found['PyTorch']:.1e}" if "PyTorch" in found else ""
    for what in ("error", "engine", "at 90%"):
        if not found[what] <= MOST:
            return found | {"counts": False, "reason": f"{what}: off by {found[what]:.1e}{own}"}
    return found | {"counts": True}


def table(records: list[dict[str, Any]]) -> Table:
    """One row a network."""
    errors = ("error", "engine", "at 90%")
    headings = ("network", "runs", "batch", "operations", *errors, "lowering, s", "reason")
    made = Table(*headings, box=box.MARKDOWN)
    for r in records:
        cells = [""] * (len(headings) - 3)
        if "error" in r:
            batch = "any" if r["any batch"] else "fixed"
            shown = (f"{r[what]:.0e}" for what in errors)
            cells = [batch, str(r["operations"]), *shown, f"{r['seconds']:.1f}"]
        remarks = [w.removeprefix("deploy: ") for w in r.get("warnings", ())]
        if "PyTorch" in r:
            remarks.append(f"against float64, from which PyTorch is off by {r['PyTorch']:.0e}")
        said = "; ".join(remarks)
        reason = r.get("reason", said).removeprefix("deploy: ").replace("|", "/")
        made.add_row(f"{r['family']}:{r['name']}", "yes" if r["counts"] else "no", *cells, reason)
    return made


def counts(records: list[dict[str, Any]]) -> list[str]:
    """Lines such as "timm: 120 of 142 run, 118 of them with any batch"."""
    lines = []
    for family in dict.fromkeys(r["family"] for r in records):
        mine = [r for r in records if r["family"] == family]
        good = [r for r in mine if r["counts"]]
        any_batch = sum(r["any batch"] for r in good)
        lines.append(f"{family}: {len(good)} of {len(mine)} run, {any_batch} with any batch")
    return lines


def wanted(families: list[str], only: list[str] | None) -> list[tuple[str, str]]:
    """Of torchvision those that classify images."""
    found = []
    for family in families:
        every = names(family)
        if family == "torchvision":
            from benchmarks.coverage_models.torchvision import CLASSIFICATION

            every = CLASSIFICATION
        found += [(family, n) for n in every if not only or any(part in n for part in only)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--only", nargs="+", help="networks whose names hold one of these")
    parser.add_argument("--missing", action="store_true", help="those that do not count yet")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds for a network")
    parser.add_argument("--json", type=Path, help="add the results to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    args = parser.parse_args()
    preload([f"benchmarks.coverage_models.{family}" for family in args.families])
    found: dict[tuple[str, str], dict[str, Any]] = {}
    if args.json and args.json.exists():
        before = json.loads(args.json.read_text())["results"]
        found = {(r["family"], r["name"]): r for r in before}
    for key in wanted(args.families, args.only):
        if args.missing and found.get(key, {}).get("counts"):
            continue
        found[key] = run(*key, args.patience)
        r = found[key]
        print(*key, r.get("reason") or f"{r['error']:.0e} {r['warnings'] or ''}", flush=True)
        if args.json:
            report = {"machine": machine("cpu"), "results": [*found.values()]}
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    records = list(found.values())
    Console(width=200).print(table(records))
    print(*counts(records), sep="\n")
    if args.markdown:
        with args.markdown.open("w") as file:
            Console(file=file, width=1000).print(table(records))


if __name__ == "__main__":
    main()
