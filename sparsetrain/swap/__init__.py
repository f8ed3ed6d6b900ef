"""A user's own model with the layers that are pruned exchanged for sparse ones, and back."""

from sparsetrain.swap.choose import sparsify as sparsify
from sparsetrain.swap.exchange import Packing as Packing
from sparsetrain.swap.exchange import densify as densify
from sparsetrain.swap.exchange import pack_ as pack_
from sparsetrain.swap.exchange import sparse_layers as sparse_layers
from sparsetrain.swap.report import Report as Report
