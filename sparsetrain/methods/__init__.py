"""Pruning methods for a training loop; sparsetrain/methods/method.py shows the loop."""

from sparsetrain.methods.before import SNIP as SNIP
from sparsetrain.methods.before import GraSP as GraSP
from sparsetrain.methods.before import Magnitude as Magnitude
from sparsetrain.methods.before import ProsPr as ProsPr
from sparsetrain.methods.before import Random as Random
from sparsetrain.methods.drive import DRIVE as DRIVE
from sparsetrain.methods.fggp import FGGP as FGGP
from sparsetrain.methods.gradual import GMP as GMP
from sparsetrain.methods.imp import IMP as IMP
from sparsetrain.methods.masking import Masking as Masking
from sparsetrain.methods.method import Method as Method
from sparsetrain.methods.rounds import FORCE as FORCE
from sparsetrain.methods.rounds import IterSNIP as IterSNIP
from sparsetrain.methods.rounds import SynFlow as SynFlow
from sparsetrain.methods.sparse_gpt import SparseGPT as SparseGPT
from sparsetrain.methods.three_sp import ThreeSP as ThreeSP
from sparsetrain.methods.wanda import Wanda as Wanda
