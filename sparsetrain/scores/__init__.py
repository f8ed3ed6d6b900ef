"""What a channel is worth.

A score is called with a model and its channel graph and returns, for each group whose channels may
go, the worth of every channel; `sparsetrain.plan` removes the lowest.
"""

from sparsetrain.scores.plain import Random as Random
from sparsetrain.scores.taylor import Taylor as Taylor
from sparsetrain.scores.three_sp import ThreeSP as ThreeSP
from sparsetrain.scores.weights import FPGM as FPGM
from sparsetrain.scores.weights import FilterNorm as FilterNorm
from sparsetrain.scores.weights import GroupNorm as GroupNorm
from sparsetrain.scores.weights import Slimming as Slimming
