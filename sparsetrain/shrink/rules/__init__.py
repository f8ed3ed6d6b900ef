"""One rule an operation: which channels of its inputs, outputs and parameters are the same.

A rule takes the tracer and the step and returns the labels of the result's dimensions (`None` for a
dimension that holds no channels), or one such list for each of several results. It ties labels that
must go together and fixes those that cannot go. An operation without a rule fixes every channel
that reaches it, with a reason that names it.
"""

from sparsetrain.shrink.rules import attention as attention
from sparsetrain.shrink.rules import elementwise as elementwise
from sparsetrain.shrink.rules import indices as indices
from sparsetrain.shrink.rules import layers as layers
from sparsetrain.shrink.rules import norms as norms
from sparsetrain.shrink.rules import pools as pools
from sparsetrain.shrink.rules import recurrent as recurrent
from sparsetrain.shrink.rules import reductions as reductions
from sparsetrain.shrink.rules import reshapes as reshapes
from sparsetrain.shrink.rules import slices as slices
from sparsetrain.shrink.rules.registry import apply_rule as apply_rule
from sparsetrain.shrink.rules.registry import rule as rule
