"""Remove channels for real: graph (what moves together), plan (what goes), apply (cut)."""

from sparsetrain.shrink.apply import check_like as check_like
from sparsetrain.shrink.apply import resize_like as resize_like
from sparsetrain.shrink.budget import ALLOCATIONS as ALLOCATIONS
from sparsetrain.shrink.budget import COSTS as COSTS
from sparsetrain.shrink.choose import budget_of as budget_of
from sparsetrain.shrink.choose import plan as plan
from sparsetrain.shrink.graph import Graph as Graph
from sparsetrain.shrink.graph import Group as Group
from sparsetrain.shrink.graph import Layer as Layer
from sparsetrain.shrink.graph import ReLU as ReLU
from sparsetrain.shrink.plan import Plan as Plan
from sparsetrain.shrink.plan import load_plan as load_plan
from sparsetrain.shrink.protect import Protect as Protect
from sparsetrain.shrink.protect import protected as protected
from sparsetrain.shrink.record import arguments as arguments
from sparsetrain.shrink.rules import rule as rule
from sparsetrain.shrink.trace import trace as trace
from sparsetrain.shrink.unproved import Unproved as Unproved
