"""State on disk: of training runs, and of networks that were pruned or shrunk."""

from sparsetrain.checkpoint.file import CheckpointError as CheckpointError
from sparsetrain.checkpoint.file import load as load
from sparsetrain.checkpoint.file import save as save
from sparsetrain.checkpoint.model import load_graph as load_graph
from sparsetrain.checkpoint.model import load_model as load_model
from sparsetrain.checkpoint.model import save_model as save_model
from sparsetrain.checkpoint.state import restore as restore
from sparsetrain.checkpoint.state import state_of as state_of
from sparsetrain.checkpoint.witness import check_witness as check_witness
from sparsetrain.checkpoint.witness import witness_of as witness_of
