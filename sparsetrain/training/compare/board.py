"""How far a grid is, as it is seen: a line for each cell that ends, and a bar with the time left.

What other processes do is read from the cells' folders.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from sparsetrain.training.compare.grid import Cell
from sparsetrain.training.progress import Progress


class Board:
    """Progress of all cells; a console of None shows nothing.

    Args:
        missing: whether a cell is still to be run; a failure before this call is to be tried again.
    """

    def __init__(
        self,
        console: Console | None,
        cells: Sequence[Cell],
        out: Path,
        missing: Callable[[Cell], bool],
    ) -> None:
        self._console, self._cells, self._out, self._missing = console, cells, out, missing
        self._ended: set[str] = set()
        self._bars: Bars | None = None
        self._began = time.monotonic()
        self._first: float | None = None  # epochs that were done before this call

    @contextmanager
    def shown(self) -> Iterator["Board"]:
        if self._console is None or not self._console.is_terminal:
            self._look(announce=False)
            yield self
            return
        columns = (BarColumn(bar_width=None), TextColumn("{task.fields[status]}", markup=False))
        with Bars(*columns, console=self._console, transient=True, expand=True) as self._bars:
            total = sum(cell.epochs for cell in self._cells)
            self._task = self._bars.add_task("", total=total, status="")
            self._look(announce=False)
            yield self
        self._bars = None

    def refresh(self) -> None:
        """Read the folders again; say which cells have ended since."""
        self._look(announce=True)

    def of(self, cell: Cell) -> Progress:
        """Progress of a cell that this process trains."""
        return _InCell(cell, self.refresh, self._update)

    def _look(self, announce: bool) -> None:
        if self._console is None:
            return
        done = 0.0
        for cell in self._cells:
            if cell.name not in self._ended and not self._missing(cell):
                self._ended.add(cell.name)
                if announce:
                    line = self._line(cell, cell.result(self._out) or {})
                    self._console.print(line, soft_wrap=True)
            ended = cell.name in self._ended
            done += cell.epochs if ended else min(cell.epochs_done(self._out), cell.epochs)
        self._done = done
        if self._first is None:
            self._first = done
        self._update(0.0)

    def _line(self, cell: Cell, result: Mapping[str, Any]) -> str:
        where = f"{len(self._ended)}/{len(self._cells)}"
        if "error" in result:
            return f"{where}  {cell.name}  failed: {result['error']}"
        return (
            f"{where}  {cell.name}  test acc {result['test_accuracy']:.1%}"
            f"  pruned {result['sparsity']:.1%}  {result['seconds']:.1f} s"
        )

    def _update(self, part: float) -> None:
        """Move the bar; `part` of an epoch is done of the cell at hand."""
        if self._bars is None or self._first is None:
            return
        total, done = sum(cell.epochs for cell in self._cells), self._done + part
        taken, here = time.monotonic() - self._began, done - self._first
        left = f"  {_clock(taken * (total - done) / here)} left" if here > 0 else ""
        status = f"{len(self._ended)}/{len(self._cells)} cells{left}"
        self._bars.update(self._task, completed=done, status=status)


class _InCell(Progress):
    """Hands on what `train` reports of one cell."""

    def __init__(
        self, cell: Cell, refresh: Callable[[], None], update: Callable[[float], None]
    ) -> None:
        super().__init__(None, cell.name)
        self._refresh, self._update = refresh, update

    def step(self, epoch: int, step: int, steps: int, loss: float, accuracy: float) -> None:
        self._update(step / steps)

    def epoch(self, record: Mapping[str, float]) -> None:
        self._refresh()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
