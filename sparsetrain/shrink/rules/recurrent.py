"""The cells of recurrent layers as one operation each, as on GPUs; elsewhere they come apart."""

import numpy as np

from sparsetrain.shrink.labels import Dims, Labels, Tracer
from sparsetrain.shrink.program import Step, Value
from sparsetrain.shrink.rules.registry import rule


@rule("_thnn_fused_lstm_cell")
def lstm_cell(t: Tracer, step: Step) -> list[Dims]:
    """`[N, 4 H]` of the input and of the state, `[N, H]` of the cell: hy, cy, all gates."""
    units, gates = _units(t, step, 4)
    return [[None, units], [None, units], [None, gates]]


@rule("_thnn_fused_gru_cell")
def gru_cell(t: Tracer, step: Step) -> list[Dims]:
    """`[N, 3 H]` of the input and of the state, `[N, H]` of the state: hy, five of H."""
    units, _ = _units(t, step, 3)
    return [[None, units], [None, None if units is None else np.tile(units, 5)]]


def _units(t: Tracer, step: Step, gates: int) -> tuple[Labels, Labels]:
    """Labels of the units and of all gates: a unit goes from every gate."""
    of_input, of_state, state, *biases = step.values
    labels = t.dims[of_input][-1]
    for other in (of_state, *biases):
        labels = _tied(t, step, labels, other)
    units = t.dims[state][-1]
    if labels is None:
        return t.tie(units, None, f"{step} mixes it with others"), None
    for gate in labels.reshape(gates, -1):
        units = t.tie(units, gate, f"{step} mixes it with others")
    return units, labels


def _tied(t: Tracer, step: Step, labels: Labels, other: Value) -> Labels:
    return t.tie(labels, t.dims[other][-1], f"{step} mixes it with others")
