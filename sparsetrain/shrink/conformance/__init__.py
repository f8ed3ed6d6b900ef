"""Hard graphs: small networks on which a structured pruner shows whether it is sound."""

from sparsetrain.shrink.conformance import attention as attention
from sparsetrain.shrink.conformance import code as code
from sparsetrain.shrink.conformance import entries as entries
from sparsetrain.shrink.conformance import joins as joins
from sparsetrain.shrink.conformance import layers as layers
from sparsetrain.shrink.conformance.hard import GRAPHS as GRAPHS
from sparsetrain.shrink.conformance.hard import Hard as Hard
