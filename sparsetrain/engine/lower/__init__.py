"""A model as a program of the engine."""

from sparsetrain.engine.lower.lowering import Lowered as Lowered
from sparsetrain.engine.lower.lowering import lowered as lowered
from sparsetrain.engine.lower.undeployable import Undeployable as Undeployable
