"""Sparse training with compiled kernels."""

import torch  # noqa: F401  (loads libc10, which _C links against)

import sparsetrain._C  # noqa: F401  # type: ignore[import-not-found]  (registers the kernels)
from sparsetrain import checkpoint as checkpoint
from sparsetrain import masks as masks
from sparsetrain import methods as methods
from sparsetrain import models as models
from sparsetrain import ops as ops
from sparsetrain import scores as scores
from sparsetrain.shrink import Plan as Plan
from sparsetrain.shrink import plan as plan
