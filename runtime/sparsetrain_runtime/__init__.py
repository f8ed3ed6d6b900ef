"""Runs networks that `sparsetrain.deploy` wrote, without PyTorch."""

from sparsetrain_runtime.file import NetworkError as NetworkError
from sparsetrain_runtime.library import EngineError as EngineError
from sparsetrain_runtime.loading import load as load
from sparsetrain_runtime.network import Network as Network
from sparsetrain_runtime.network import TensorSpec as TensorSpec
