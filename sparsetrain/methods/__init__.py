"""Pruning methods for a training loop; sparsetrain/methods/method.py shows the loop."""

from sparsetrain.methods.activation_density import ActivationDensity as ActivationDensity
from sparsetrain.methods.channel_pruning import ChannelPruning as ChannelPruning
from sparsetrain.methods.drive import DRIVE as DRIVE
from sparsetrain.methods.masking import Masking as Masking
from sparsetrain.methods.method import Method as Method
from sparsetrain.methods.network_slimming import NetworkSlimming as NetworkSlimming
from sparsetrain.methods.three_sp import ThreeSP as ThreeSP
