"""What a cell's result must hold; anything else is refused before it is used."""

from pathlib import Path
from typing import Any

from sparsetrain.selection.masks import COUNTS
from sparsetrain.support.reading import read_json
from sparsetrain.support.schema import Anything, Either, Fields, Maybe, Named, Text
from sparsetrain.training.run_state import COUNT, SECONDS, SHARE

ASKED = {
    "cell": Text(),
    "method": Text(),
    "seed": COUNT,
    "asked": Fields({}, {"sparsity": SHARE, "flops": SHARE}),
    "data": Text(),
    "note": Text(),
    "machine": Named(Anything()),
}
MEASURED = {
    "test_accuracy": SHARE,
    "best_test_accuracy": SHARE,
    "sparsity": SHARE,
    "count": Text(COUNTS),
    "parameters": COUNT,
    "train_flops": Maybe(COUNT),
    "seconds": SECONDS,
    "pruning_seconds": SECONDS,
    "epochs": COUNT,
}
RESULT = Either((Fields({**ASKED, "error": Text()}), Fields({**ASKED, **MEASURED})))


def read_result(path: Path) -> dict[str, Any] | None:
    """What came out of a cell, or why it failed; None where there is no such file yet.

    Raises:
        ValueError: the file is damaged.
    """
    return read_json(path, "result", RESULT) if path.exists() else None
