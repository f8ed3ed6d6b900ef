"""What makes a program shorter without changing what it computes; each pass works in place."""

from sparsetrain.engine.lower.passes.simplify import simplify as simplify
