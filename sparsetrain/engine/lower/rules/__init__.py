"""One small rule an operation of torch: what it is in operations of the engine.

A rule has the arguments of its operation, after the writer (lower/writer.py): an Item
(lower/item.py) for each tensor, sizes that may hang on the batch. It returns its result, or a list
of several: numbers of values that it wrote, or an item as it is. It raises Refused where the
engine has no such operation.
"""

from sparsetrain.engine.lower.rules import arithmetic as arithmetic
from sparsetrain.engine.lower.rules import attention as attention
from sparsetrain.engine.lower.rules import fills as fills
from sparsetrain.engine.lower.rules import functions as functions
from sparsetrain.engine.lower.rules import gather as gather
from sparsetrain.engine.lower.rules import indices as indices
from sparsetrain.engine.lower.rules import joins as joins
from sparsetrain.engine.lower.rules import norms as norms
from sparsetrain.engine.lower.rules import pads as pads
from sparsetrain.engine.lower.rules import pools as pools
from sparsetrain.engine.lower.rules import products as products
from sparsetrain.engine.lower.rules import reductions as reductions
from sparsetrain.engine.lower.rules import shapes as shapes
from sparsetrain.engine.lower.rules import slices as slices
from sparsetrain.engine.lower.rules.registry import rule as rule
from sparsetrain.engine.lower.rules.registry import rule_of as rule_of
