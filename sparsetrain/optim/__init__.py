"""Optimizers that keep pruned weights at zero, and state edited together with its weights."""

from sparsetrain.optim.adamw import Adam as Adam
from sparsetrain.optim.adamw import AdamW as AdamW
from sparsetrain.optim.masked import Masked as Masked
from sparsetrain.optim.sgd import SGD as SGD
from sparsetrain.optim.state import clear_ as clear_
from sparsetrain.optim.state import local as local
from sparsetrain.optim.state import mask_ as mask_
from sparsetrain.optim.state import replace_ as replace_
from sparsetrain.optim.state import reset_ as reset_
from sparsetrain.optim.state import set_data_ as set_data_
from sparsetrain.optim.state import state_like as state_like
