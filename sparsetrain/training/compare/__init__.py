"""Compare methods: a grid of training runs that survives being killed, and its report."""

from sparsetrain.training.compare import report as report
from sparsetrain.training.compare.grid import Grid as Grid
from sparsetrain.training.compare.run import compare as compare
