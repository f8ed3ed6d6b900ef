"""Sparse training with compiled kernels."""

import torch  # noqa: F401  (loads libc10, which _C links against)

import sparsetrain._C  # noqa: F401  # type: ignore[import-not-found]  (registers the kernels)
from sparsetrain import checkpoint as checkpoint
from sparsetrain import distributed as distributed
from sparsetrain import engine as engine
from sparsetrain import methods as methods
from sparsetrain import models as models
from sparsetrain import nn as nn
from sparsetrain import ops as ops
from sparsetrain import scores as scores
from sparsetrain.engine import deploy as deploy
from sparsetrain.export import export_aotinductor as export_aotinductor
from sparsetrain.export import export_huggingface as export_huggingface
from sparsetrain.export import export_onnx as export_onnx
from sparsetrain.export import export_pt2 as export_pt2
from sparsetrain.methods import recalibrate as recalibrate
from sparsetrain.selection import masks as masks
from sparsetrain.selection.patterns import NM as NM
from sparsetrain.selection.patterns import Block as Block
from sparsetrain.selection.patterns import Channel as Channel
from sparsetrain.selection.patterns import Unstructured as Unstructured
from sparsetrain.selection.patterns import Vector as Vector
from sparsetrain.selection.select import select as select
from sparsetrain.shrink import Plan as Plan
from sparsetrain.shrink import load_plan as load_plan
from sparsetrain.shrink import plan as plan
from sparsetrain.swap import densify as densify
from sparsetrain.swap import sparsify as sparsify
