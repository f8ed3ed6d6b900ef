"""What is compared: methods x amounts x seeds, each cell an ordinary training run in its folder.

    OUT/config.json               what all cells share
    OUT/cells/NAME/               a run folder: training/runs.py
    OUT/cells/NAME/result.json    what came out, or why it failed, written at the cell's end
    OUT/results.csv, results.json, report.html

NAME is METHOD-AMOUNT-seedS. The amount is a sparsity, a share of the FLOPs kept for methods that
remove channels to a budget, or missing for those that take neither.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsetrain.data import Images
from sparsetrain.support.files import write_text
from sparsetrain.support.reading import read_json, text_of
from sparsetrain.support.schema import fields_of
from sparsetrain.training.assembly import build_method
from sparsetrain.training.catalog import budget_of
from sparsetrain.training.compare.result import read_result
from sparsetrain.training.config import Config

SHARED = "config.json"
RESULT = "result.json"
FREE = ("workers", "checkpoint_every", "data_dir", "device", "seed")  # may differ between calls
VARIED = ("method", "sparsity", "flops", "seed")  # what a cell has of its own


@dataclass(frozen=True)
class Cell:
    """One training run of the grid."""

    name: str
    config: Config
    epochs: int  # in all its trainings

    @property
    def amount(self) -> dict[str, float]:
        """{"sparsity": 0.9}, {"flops": 0.5} or nothing."""
        what = budget_of(self.config.method)
        return {} if what is None else {what: getattr(self.config, what)}

    def folder(self, out: Path) -> Path:
        return out / "cells" / self.name

    def result(self, out: Path) -> dict[str, Any] | None:
        """What came out of it, once it has ended."""
        return read_result(self.folder(out) / RESULT)

    def epochs_done(self, out: Path) -> int:
        try:
            return text_of(self.folder(out) / "metrics.jsonl").count("\n")
        except (OSError, ValueError):  # only shown
            return 0


@dataclass(frozen=True)
class Grid:
    """The cells to run; seeds outermost, so that a first whole comparison is there early.

    Attributes:
        config: what all cells share; its seed is the first one.
        methods: names in `catalog.METHODS`.
        sparsity, flops: amounts for the methods that take them.
    """

    config: Config
    methods: tuple[str, ...]
    sparsity: tuple[float, ...]
    flops: tuple[float, ...]
    seeds: int

    def __post_init__(self) -> None:
        for name in ("methods", "sparsity", "flops"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"compare: {name} is empty")
            if len(set(values)) < len(values):
                raise ValueError(f"compare: {name} names something twice: {values}")
        if self.seeds < 1:
            raise ValueError(f"compare: seeds must be 1 or more, got {self.seeds}")
        _ = self.configs  # each is checked

    @cached_property
    def configs(self) -> dict[str, Config]:
        """Name of a cell -> its config."""
        named = (named for seed in range(self.seeds) for named in self._of_seed(seed))
        return dict(named)

    def _of_seed(self, seed: int) -> Iterator[tuple[str, Config]]:
        seed += self.config.seed
        for method in self.methods:
            config = replace(self.config, method=method, seed=seed)
            amount = budget_of(method)
            if amount is None:
                yield f"{method}-seed{seed}", config
            else:
                for value in getattr(self, amount):
                    name = f"{method}-{value:g}-seed{seed}"
                    yield name, replace(config, **{amount: value})

    def cells(self, data: Images) -> list[Cell]:
        """All cells, their methods made once to see that they fit, before anything is trained."""
        epochs: dict[str, int] = {}
        cells = []
        for name, config in self.configs.items():
            kind = name.rpartition("-seed")[0]
            if kind not in epochs:
                epochs[kind] = int(config.epochs * build_method(config, data).lengths)
            cells.append(Cell(name, config, epochs[kind]))
        return cells

    def open(self, out: Path) -> None:
        """Claim `out` for this grid's shared config; refuse it where another's lies there."""
        ours = shared(self.config)
        if (saved := read_shared(out)) is None:
            write_text(out / SHARED, json.dumps(ours, indent=2) + "\n")
            return
        for name, value in ours.items():
            if name not in FREE and saved.get(name) != value:
                why = "; threads are shared among the processes" if name == "threads" else ""
                raise ValueError(
                    f"{out} was run with {name}={saved.get(name)!r}, not {value!r}{why}"
                )


def read_shared(out: Path) -> dict[str, Any] | None:
    """What all cells in a folder share; None where nothing was run yet.

    Raises:
        ValueError: the file is damaged.
    """
    path = out / SHARED
    return read_json(path, "config", fields_of(Config)) if path.exists() else None


def shared(config: Config) -> dict[str, Any]:
    return {k: v for k, v in asdict(config).items() if k not in VARIED}
