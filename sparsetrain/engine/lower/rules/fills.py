"""New numbers in the place of a tensor's."""

from sparsetrain.engine.lower.item import Item
from sparsetrain.engine.lower.rules.arithmetic import operand
from sparsetrain.engine.lower.rules.registry import Made, rule
from sparsetrain.engine.lower.rules.words import Operand, cast, expanded, full
from sparsetrain.engine.lower.undeployable import Refused
from sparsetrain.engine.lower.writer import Writer


@rule("copy")
def copy(w: Writer, x: Item, source: Item, non_blocking: bool = False) -> Made:
    return expanded(w, cast(w, source, w.dtypes[0]), w.shapes[0])


@rule("fill")
def fill(w: Writer, x: Item, value: Operand) -> Made:
    return expanded(w, operand(w, value, w.dtypes[0]), w.shapes[0])


@rule("zero")
def zero(w: Writer, x: Item) -> Made:
    return full(w, 0, w.dtypes[0], w.shapes[0])


@rule("slice_scatter", "select_scatter", "scatter", "index_put", "masked_scatter")
def scatter(w: Writer, *_: object, **__: object) -> Made:
    raise Refused("writes to places that the engine has no operation for")
