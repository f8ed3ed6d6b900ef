"""A run, or several side by side, as one HTML file that needs nothing else."""

import html
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.table import Table
from torch import nn

from sparsetrain.selection.masks import Masks
from sparsetrain.support import plots
from sparsetrain.support.files import write_text
from sparsetrain.support.tables import slim
from sparsetrain.training.runs import Run

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; } svg { max-width: 100%; height: auto; }
.notes { color: #555; font-size: .9rem; }
"""


@dataclass(frozen=True)
class Facts:
    """A table: one row a quantity, one column a run, cells as they are shown."""

    columns: Sequence[str]
    rows: Mapping[str, Sequence[str]]

    def for_terminal(self, title: str, whole: bool = False) -> Table:
        """With `whole`, a narrow terminal breaks the rows' names, not the values."""
        make = slim if whole else Table
        table = make(title=title, title_justify="left", title_style="bold")
        table.add_column("", overflow="fold" if whole else "ellipsis")
        for column in self.columns:
            table.add_column(column, justify="right", no_wrap=whole)
        for name, cells in self.rows.items():
            table.add_row(name, *cells)
        return table

    def first(self, count: int) -> "Facts":
        """The first columns alone, for a narrow terminal."""
        rows = {name: cells[:count] for name, cells in self.rows.items()}
        return Facts(self.columns[:count], rows)

    def for_html(self) -> str:
        head = "".join(f"<th>{html.escape(c)}</th>" for c in ("", *self.columns))
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in (name, *cells)) + "</tr>"
            for name, cells in self.rows.items()
        )
        return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def write(
    path: Path, title: str, facts: Facts, figures: Mapping[str, Figure], notes: Sequence[str]
) -> None:
    """Write the report atomically; figures go in as SVG, under their headings."""
    pictures = "".join(f"<h2>{html.escape(h)}</h2>{_svg(f)}" for h, f in figures.items())
    remarks = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{facts.for_html()}{pictures}"
        f'<h2>Notes</h2><div class="notes">{remarks}</div></body></html>\n',
    )


def write_run(path: Path, run: Run, dense: nn.Module, notes: Sequence[str]) -> None:
    """The report of one training run; `dense` is its network before anything was pruned."""
    last = run.history[-1] if run.history else {}
    shown = {k: v for k, v in (asdict(run.config) | last).items() if v is not None}
    rows = {k: [f"{v:.4g}" if isinstance(v, float) else str(v)] for k, v in shown.items()}
    figures = {"Training": plots.curves({run.config.method: run.history})} if run.history else {}
    kept = kept_shares(run.model, dense, run.method.masks)
    if any(share < 1 for share in kept.values()):
        figures["Pruned layers"] = plots.kept_by_layer({run.config.method: kept})
    title = f"{run.config.model} on {run.config.data}: {run.config.method}"
    write(path, title, Facts(["value"], rows), figures, notes)


def kept_shares(model: nn.Module, dense: nn.Module, masks: Masks) -> dict[str, float]:
    """Layer -> share kept in 0-1: of the weights where there is a mask, else of the outputs."""
    whole = {n: p for n, p in dense.named_parameters() if p.dim() > 1}
    return {
        name.removesuffix(".weight"): float(masks[name].double().mean())
        if name in masks
        else len(p) / len(whole[name])
        for name, p in model.named_parameters()
        if name in whole
    }


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    # The same picture gives the same file, also where its font lacks a character of a note.
    with rc_context({"svg.hashsalt": "sparsetrain"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(
            text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return text.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]
