"""Sparse layers: packed weights, and activations in the layout that their kernels read."""

from sparsetrain.nn.packed import Pattern as Pattern
