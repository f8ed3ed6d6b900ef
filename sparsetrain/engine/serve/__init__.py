"""HTTP for deployed networks: the Open Inference Protocol v2, batches, metrics, and a page."""

from sparsetrain.engine.serve.options import Options as Options
from sparsetrain.engine.serve.server import run as run
