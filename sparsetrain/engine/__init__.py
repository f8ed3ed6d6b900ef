"""Networks on the compiled engine, inside PyTorch or in a file of their own."""

from sparsetrain.engine.compiled import CompiledNetwork as CompiledNetwork
from sparsetrain.engine.compiled import compile as compile
from sparsetrain.engine.deploy import deploy as deploy
from sparsetrain.engine.lower import Undeployable as Undeployable
