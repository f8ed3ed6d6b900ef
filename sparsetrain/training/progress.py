"""A training run as it is seen: a bar with loss, accuracy and time left, and a line an epoch."""

from collections.abc import Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """Show steps and epochs on a console; `silent()` shows nothing."""

    def __init__(self, console: Console | None, label: str = "") -> None:
        self._console, self._label = console, label
        self.epochs = 1  # in all; `train` says how many
        self._bars: Bars | None = None

    @classmethod
    def silent(cls) -> "Progress":
        return cls(None)

    @contextmanager
    def shown(self):
        """While open, a bar moves at the foot of a terminal; elsewhere only epochs are printed."""
        if self._console is None or not self._console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        with Bars(*columns, console=self._console, transient=True, expand=True) as self._bars:
            self._task = self._bars.add_task(self._label, total=None, status="")
            yield self
        self._bars = None

    def step(self, epoch: int, step: int, steps: int, loss: float, accuracy: float) -> None:
        """After a step: sums so far over the epoch (counted from 0)."""
        if self._bars is not None:
            self._bars.update(
                self._task,
                total=self.epochs * steps,
                completed=epoch * steps + step,
                status=f"epoch {epoch + 1}/{self.epochs}  loss {loss:.3f}  acc {accuracy:.1%}",
            )

    def epoch(self, record: Mapping[str, float]) -> None:
        """After an epoch: its line of metrics.jsonl."""
        if self._console is not None:
            pruned = f"  pruned {record['sparsity']:.1%}" if record["sparsity"] else ""
            self._console.print(
                f"{self._label} epoch {record['epoch']:>3}/{self.epochs}"
                f"  loss {record['train_loss']:.3f}  acc {record['train_accuracy']:6.1%}"
                f"  test acc {record['test_accuracy']:6.1%}{pruned}  {record['seconds']:.1f} s",
                highlight=False,
            )
