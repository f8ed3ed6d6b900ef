"""The table of rules."""

from collections.abc import Callable
from typing import Any, TypeVar

from sparsetrain.engine.lower.item import Item

Made = Item | int
Rule = Callable[..., Made | list[Made]]
RULES: dict[str, Rule] = {}  # "aten::relu" -> its rule
R = TypeVar("R", bound=Rule)


def rule(*names: str) -> Callable[[R], R]:
    """Register the rule of operations, by their names in aten, and of their twins in place."""

    def register(function: R) -> R:
        RULES.update({f"aten::{name}": function for name in names})
        return function

    return register


def rule_of(op: Any) -> Rule | None:
    """Its own, or that of the operation that it does in place."""
    name = op._schema.name
    return RULES.get(name) or RULES.get(name.removesuffix("_"))
