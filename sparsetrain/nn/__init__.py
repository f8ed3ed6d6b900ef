"""Sparse layers: packed weights, and activations in the layout that their kernels read."""

from sparsetrain.nn import blocked_functions as blocked_functions
from sparsetrain.nn.blocked import Blocked as Blocked
from sparsetrain.nn.blocked import choose_lanes as choose_lanes
from sparsetrain.nn.packed import Pattern as Pattern
from sparsetrain.nn.sparse_conv2d import SparseConv2d as SparseConv2d
from sparsetrain.nn.sparse_layer import Move as Move
from sparsetrain.nn.sparse_layer import SparseLayer as SparseLayer
from sparsetrain.nn.sparse_layer import dense_gradient as dense_gradient
from sparsetrain.nn.sparse_linear import SparseLinear as SparseLinear
