"""Which networks of others lose half of their channels, verified, and why the rest do not.

    python -m benchmarks.coverage --json benchmarks/results/coverage.json --markdown coverage.md
    python -m benchmarks.coverage --only resnet50 --tools sparsetrain torch-pruning

Needs the packages of the extra `coverage`. Each network in a process of its own, on one thread. It
counts if half of each group of its channels is removed, the result equals the network with those
channels cut (shrink/proof.py) to 1e-4, runs forward and backward, and keeps at most 45% of its
prunable parameters (those of tensors that can lose channels), all of it within 60 s of one core's
time, tracing included. "loaded": whether it is equal after it was saved, and loaded into the whole
network in a fresh process.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import coverage_one, coverage_saved
from benchmarks.apart import apart, preload
from benchmarks.coverage_models import FAMILIES, names
from benchmarks.coverage_saved import EQUAL
from sparsetrain.support.machine import machine

TOOLS = ("sparsetrain", "torch-pruning")
RIVAL = TOOLS[1]
LIMITS = {"seconds": 60.0, "error": 1e-4, "kept": 0.45}
VISIBLE = 100  # times the error that the removal must change the output by, or it proves nothing
PATIENCE = 300  # seconds until a process is stopped


def run(tool: str, family: str, name: str) -> dict[str, Any]:
    """The record of one network."""
    found: dict[str, Any] = {"tool": tool, "family": family, "name": name, "way": None}
    with tempfile.TemporaryDirectory() as folder:
        try:
            found |= apart(PATIENCE, coverage_one.record, tool, family, name, Path(folder))
        except RuntimeError as error:
            return found | {"reason": str(error)}
        if "loaded" in found and found["loaded"] is None:
            try:
                found["loaded"] = apart(PATIENCE, coverage_saved.loaded, family, name, Path(folder))
            except RuntimeError as error:
                found["loaded"] = str(error)
    return found


def spent(record: dict[str, Any]) -> float:
    """Seconds from the trace to the shrunk network; the way that was not gone does not count."""
    ways = ("plan", "apply", f"verify {record['way']}")
    return sum(record.get("seconds", {}).get(way, 0.0) for way in ways)


def judged(record: dict[str, Any]) -> dict[str, Any]:
    """With whether it counts, and the reason why not."""
    if record["way"] is None:
        return record | {"counts": False}
    found = {"seconds": spent(record), "error": record["error"], "kept": record["kept"]}
    over = [
        f"{what} {found[what]:.2g} > {most:g}"
        for what, most in LIMITS.items()
        if not found[what] <= most
    ]
    if record["changed"] < VISIBLE * record["error"]:
        over.append("the removal hardly changes the output")
    return record | {"counts": not over} | ({"reason": ", ".join(over)} if over else {})


def table(records: list[dict[str, Any]]) -> Table:
    """One row a network."""
    headings = ("network", "shrunk", "plan, s", "apply, s", "kept", "error", "loaded", "reason")
    found = Table(*headings, box=box.MARKDOWN)
    by_tool = {tool: [r for r in records if r["tool"] == tool] for tool in TOOLS}
    rivals = {(r["family"], r["name"]): r for r in by_tool[RIVAL]}
    if rivals:
        found.add_column(RIVAL)
        found.add_column("its reason")
    for r in by_tool[TOOLS[0]]:
        cells = [f"{r['family']}:{r['name']}", *_cells(r)]
        if rival := rivals.get((r["family"], r["name"])):
            took = f"{rival['seconds'].get('plan', 0.0):.1f} s" if "seconds" in rival else ""
            reason = rival.get("reason", "").replace("|", "/")
            cells += [f"{'yes' if rival['counts'] else 'no'}, {took}", reason]
        found.add_row(*cells)
    return found


def _cells(r: dict[str, Any]) -> list[str]:
    seconds = r.get("seconds", {})
    apply = seconds.get("apply", 0.0) + seconds.get(f"verify {r['way']}", 0.0)
    result = [f"{100 * r['kept']:.0f}%", f"{r['error']:.0e}"] if r["way"] else ["", ""]
    way = r["way"] if r["counts"] else "no"
    times = (f"{seconds.get('plan', 0.0):.1f}", f"{apply:.1f}")
    return [way, *times, *result, r.get("loaded", ""), r.get("reason", "")]


def counts(records: list[dict[str, Any]]) -> list[str]:
    """Lines such as "torchvision, sparsetrain: 105 of 105 count, 90 of them in place"."""
    lines = []
    for family, tool in dict.fromkeys((r["family"], r["tool"]) for r in records):
        mine = [r for r in records if (r["family"], r["tool"]) == (family, tool)]
        good = [r for r in mine if r["counts"]]
        in_place = sum(r["way"] == "in place" for r in good)
        line = f"{family}, {tool}: {len(good)} of {len(mine)} count, {in_place} in place"
        saved = [r["loaded"] for r in mine if "loaded" in r]
        same = f", {saved.count(EQUAL)} of {len(saved)} equal when loaded" if saved else ""
        lines.append(line + same)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--only", nargs="+", help="networks whose names hold one of these")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS[:1])
    parser.add_argument("--missing", action="store_true", help="those that the file does not have")
    parser.add_argument("--json", type=Path, help="add the results to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    args = parser.parse_args()
    preload([f"benchmarks.coverage_models.{family}" for family in args.families])
    report: dict[str, Any] = {"machines": {}, "limits": LIMITS, "results": []}
    if args.json and args.json.exists():
        report = json.loads(args.json.read_text())
    found = {(r["tool"], r["family"], r["name"]): r for r in report["results"]}
    wanted = [(tool, f, name) for f in args.families for name in names(f) for tool in args.tools]
    for key in wanted:
        left_out = args.only and not any(part in key[2] for part in args.only)
        if left_out or (args.missing and key in found):
            continue
        found[key] = judged(run(*key))
        print(*key, "counts" if found[key]["counts"] else found[key].get("reason"), flush=True)
        if args.json:
            report["machines"][key[0]] = machine("cpu")  # of the latest run of this tool
            report["results"] = [*found.values()]
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    records = list(found.values())
    Console(width=200).print(table(records))
    print(*counts(records), sep="\n")
    if args.markdown:
        with args.markdown.open("w") as file:
            Console(file=file, width=1000).print(table(records))


if __name__ == "__main__":
    main()
