"""Pruning methods for a training loop; sparsetrain/methods/method.py shows the loop."""

from sparsetrain.methods.activation_density import ActivationDensity as ActivationDensity
from sparsetrain.methods.channel_pruning import ChannelPruning as ChannelPruning
from sparsetrain.methods.drive import DRIVE as DRIVE
from sparsetrain.methods.dynamic import SET as SET
from sparsetrain.methods.dynamic import GraNet as GraNet
from sparsetrain.methods.dynamic import RigL as RigL
from sparsetrain.methods.fggp import FGGP as FGGP
from sparsetrain.methods.gradual import ACDC as ACDC
from sparsetrain.methods.gradual import GMP as GMP
from sparsetrain.methods.gse import GSE as GSE
from sparsetrain.methods.masking import Masking as Masking
from sparsetrain.methods.method import Method as Method
from sparsetrain.methods.network_slimming import NetworkSlimming as NetworkSlimming
from sparsetrain.methods.srigl import SRigL as SRigL
from sparsetrain.methods.straight_through import SRSTE as SRSTE
from sparsetrain.methods.straight_through import STR as STR
from sparsetrain.methods.three_sp import ThreeSP as ThreeSP
