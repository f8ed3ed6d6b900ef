"""Optimizer state, edited together with the weights that it belongs to."""

from sparsetrain.optim.state import state_like as state_like
