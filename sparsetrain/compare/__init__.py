"""Compare methods: a grid of training runs that survives being killed, and its report."""

from sparsetrain.compare import report as report
from sparsetrain.compare.grid import Grid as Grid
from sparsetrain.compare.run import compare as compare
