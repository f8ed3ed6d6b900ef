"""What the project promises of single sparse layers, beside what was measured.

Layers of a network are added up as often as it has them: the promise is one of its sparse layers
together. Ours is inside a chain of blocked layers; with conversions at its borders beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsetrain.bench.contenders import BORDERS, OURS
from sparsetrain.bench.layer_records import Record

Promise = tuple[str, str, Callable[[Record], bool], dict[float, float]]
THIN = (0.9, 0.95, 0.98)
RIVALS_TIMES = 2.0  # as fast as the fastest other package, forward and backward


def _conv(r: Record) -> bool:
    return (r.network, r.kernel, r.batch) == ("vgg19", 3, 32)


def _linear(r: Record) -> bool:
    return (r.network, r.batch) == ("linear", 256)


def _of(pattern: str, pick: Callable[[Record], bool], what: str) -> Callable[[Record], bool]:
    return lambda r: r.pattern == pattern and r.what == what and pick(r)


def _row(
    name: str, pick: Callable[[Record], bool], what: str, *times: tuple[str, tuple[float, ...]]
) -> list[Promise]:
    return [
        (name, pattern, _of(pattern, pick, what), dict(zip(THIN, each, strict=True)))
        for pattern, each in times
    ]


PROMISES: list[Promise] = [
    *_row(
        "conv 3x3 of VGG-19, batch 32, forward",
        _conv,
        "forward",
        ("unstructured", (4, 8, 15)),
        ("vector:4", (8, 14, 25)),
    ),
    *_row(
        "conv 3x3 of VGG-19, batch 32, training",
        _conv,
        "training",
        ("unstructured", (3, 6, 10)),
        ("vector:4", (4.5, 8, 14)),
    ),
    *_row(
        "linear 1024x1024, batch 256, forward",
        _linear,
        "forward",
        ("unstructured", (3.5, 7, 14)),
        ("vector:4", (8, 14, 25)),
    ),
]


@dataclass(frozen=True)
class Bar:
    """One promise at one sparsity and number of threads."""

    what: str
    pattern: str
    sparsity: float
    threads: int
    promised: float
    times: float  # of all layers together
    least: float  # of one layer
    with_borders: float  # of all layers, conversions counted
    of_peak: float  # useful FLOPs of all layers
    outside_kernels: float  # share of the time of all layers


def of(records: Sequence[Record]) -> list[Bar]:
    """Those of which something was measured."""
    found = []
    for name, pattern, pick, times in PROMISES:
        for sparsity, promised in times.items():
            picked = [r for r in records if pick(r) and r.sparsity == sparsity]
            against = {_place(r): r.dense_ms for r in picked}
            found += _bars((name, pattern, sparsity, promised), picked, against)
    return found + _against_packages(records)


def _against_packages(records: Sequence[Record]) -> list[Bar]:
    """Forward and backward, against the fastest other package on each layer."""
    found = []
    for name, pick in (("conv 3x3 of VGG-19", _conv), ("linear 1024x1024", _linear)):
        for sparsity in THIN:
            picked = [
                r for r in records if _of("unstructured", pick, "training")(r)
                if r.sparsity == sparsity
            ]  # fmt: skip
            against: dict[tuple[str, int], float] = {}
            for r in picked:
                if r.contender.startswith(("SparseProp", "sparselab")):
                    best = against.get(_place(r), r.median_ms)
                    against[_place(r)] = min(best, r.median_ms)
            what = f"{name}, training, over other packages"
            about = (what, "unstructured", sparsity, RIVALS_TIMES)
            found += _bars(about, [r for r in picked if _place(r) in against], against)
    return found


def _place(r: Record) -> tuple[str, int]:
    return r.layer, r.threads


def _bars(
    about: tuple[str, str, float, float],
    picked: Sequence[Record],
    against: dict[tuple[str, int], float],
) -> list[Bar]:
    """One a number of threads; `against` has the rival's ms of each layer."""
    found = []
    for threads in sorted({r.threads for r in picked}):
        inside = [r for r in picked if r.threads == threads and r.contender == OURS]
        borders = [r for r in picked if r.threads == threads and r.contender == BORDERS]
        if not inside:
            continue
        total = _total(inside)
        found.append(
            Bar(
                *about[:3],
                threads=threads,
                promised=about[3],
                times=_rival_total(inside, against) / total,
                least=min(against[_place(r)] / r.median_ms for r in inside),
                with_borders=_rival_total(borders, against) / _total(borders),
                of_peak=_weighted(inside, [r.of_peak for r in inside]),
                outside_kernels=_weighted(inside, [r.outside_kernels or 0 for r in inside]),
            )
        )
    return found


def _total(records: Sequence[Record]) -> float:
    return sum(r.count * r.median_ms for r in records)


def _rival_total(records: Sequence[Record], against: dict[tuple[str, int], float]) -> float:
    return sum(r.count * against[_place(r)] for r in records)


def _weighted(records: Sequence[Record], values: Sequence[float]) -> float:
    """The mean over the time that each layer takes."""
    shares = (r.count * r.median_ms * v for r, v in zip(records, values, strict=True))
    return sum(shares) / _total(records)
