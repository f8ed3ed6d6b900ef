"""What became of each layer, as a table."""

from dataclasses import dataclass, field

from sparsetrain.support.numbers import digits

FORMS = ("dense", "unstructured", "vector")
TIMES = ("dense", "channels_last", "unstructured", "vector")  # the second of a dense layer, too
WORTH = 0.9  # of the dense layers' time, below which another memory format is worth a note


@dataclass(frozen=True)
class Row:
    """A layer that a mask prunes.

    Attributes:
        runs: the form that it has now.
        ms: form -> time of all its calls in one run of the model, where it was measured.
        why: it has that form.
    """

    layer: str
    weight: tuple[int, ...]
    sparsity: float
    runs: str
    v: int = 1
    blocked: bool = False  # its output stays in the kernels' layout
    ms: dict[str, float] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Report:
    """What `sparsify` did; print it for a table.

    Attributes:
        rows: one a masked layer, in the model's order.
        training: times are of forward and backward, not of forward alone.
        dense_ms, ms: of the whole model, dense and as it is now, where they were measured.
    """

    rows: tuple[Row, ...]
    training: bool
    threads: int
    dense_ms: float | None = None
    ms: float | None = None

    @property
    def forms(self) -> dict[str, str]:
        """Layer -> "dense", "unstructured" or "vector"; what `force` takes."""
        return {row.layer: row.runs for row in self.rows}

    def __str__(self) -> str:
        times = [form for form in TIMES if any(form in row.ms for row in self.rows)]
        head = ["layer", "weight", "sparsity", *(f"{form} ms" for form in times), "runs", ""]
        lines = [head, *(_cells(row, times) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([*text, *self._layout(), *self._whole()])

    def _layout(self) -> list[str]:
        both = [row.ms for row in self.rows if "channels_last" in row.ms and row.runs == "dense"]
        now, other = (sum(ms[name] for ms in both) for name in ("dense", "channels_last"))
        if other >= WORTH * now:
            return []
        return [
            f"in channels_last the dense convolutions would take {digits(other)} of"
            f" {digits(now)} ms: model.to(memory_format=torch.channels_last), inputs too"
        ]

    def _whole(self) -> list[str]:
        if self.dense_ms is None or self.ms is None:
            return []
        what = "forward and backward" if self.training else "forward"
        faster = self.dense_ms / self.ms if self.ms else 1.0
        return [
            f"the model, {what}, {self.threads} threads: {digits(self.dense_ms)} ms dense,"
            f" {digits(self.ms)} ms now, {faster:.2f}x"
        ]


def _cells(row: Row, times: list[str]) -> list[str]:
    measured = [digits(row.ms[form]) if form in row.ms else "-" for form in times]
    runs = f"vector of {row.v}" if row.runs == "vector" else row.runs
    shape = "x".join(map(str, row.weight))
    why = row.why or ("output stays blocked" if row.blocked else "")
    return [row.layer, shape, f"{row.sparsity:.1%}", *measured, runs, why]
