"""Hard graphs: small networks on which a structured pruner shows whether it is sound.

Each is a few lines, runs in milliseconds, and says what must be possible: which of its weights
cannot lose anything when half of all channels go; all others must. Some hold what no pruner can
remove soundly. On your own pruner:

    from sparsetrain.shrink.conformance import GRAPHS, check

    def prune(model, sample):  # removes half of the channels
        ...
        return model

    for name, graph in GRAPHS.items():
        print(name, check(graph, prune) or "passes")
"""

from sparsetrain.shrink.conformance import attention as attention
from sparsetrain.shrink.conformance import buffers as buffers
from sparsetrain.shrink.conformance import code as code
from sparsetrain.shrink.conformance import entries as entries
from sparsetrain.shrink.conformance import joins as joins
from sparsetrain.shrink.conformance import layers as layers
from sparsetrain.shrink.conformance import numbers as numbers
from sparsetrain.shrink.conformance import recurrence as recurrence
from sparsetrain.shrink.conformance import tokens as tokens
from sparsetrain.shrink.conformance import widths as widths
from sparsetrain.shrink.conformance.check import check as check
from sparsetrain.shrink.conformance.check import compare as compare
from sparsetrain.shrink.conformance.hard import GRAPHS as GRAPHS
from sparsetrain.shrink.conformance.hard import Hard as Hard
from sparsetrain.shrink.conformance.hard import spread as spread
