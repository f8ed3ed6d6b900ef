"""Hard graphs: recurrent layers."""

from torch import nn

from sparsetrain.shrink.conformance.hard import Net, hard, sequence


def _recurrent(layer: nn.Module, width: int) -> nn.Module:
    return Net(
        lambda n, x: n.out(n.layer(n.stem(x))[0]),
        **{"stem": nn.Linear(6, 8), "layer": layer, "out": nn.Linear(width, 2)},
    )


@hard(sequence)
def lstm() -> nn.Module:
    """Four gates and a state, that lose the same units."""
    return _recurrent(nn.LSTM(8, 12, batch_first=True), 12)


@hard(sequence)
def lstm_of_two_layers_both_ways() -> nn.Module:
    """Forward and backward states side by side enter the second layer."""
    return _recurrent(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), 12)


@hard(sequence)
def lstm_with_projection() -> nn.Module:
    """Its state is narrower than its cells."""
    return _recurrent(nn.LSTM(8, 12, batch_first=True, proj_size=6), 6)


@hard(sequence)
def gru() -> nn.Module:
    """Three gates, one of which multiplies the state."""
    return _recurrent(nn.GRU(8, 12, batch_first=True), 12)


@hard(sequence)
def gru_of_two_layers_both_ways() -> nn.Module:
    """The last states of all layers and directions, joined."""

    def forward(n, x):
        state = n.layer(n.stem(x))[1]
        return n.out(state.transpose(0, 1).flatten(1))

    layer = nn.GRU(8, 6, 2, batch_first=True, bidirectional=True)
    return Net(forward, stem=nn.Linear(6, 8), layer=layer, out=nn.Linear(24, 2))


@hard(sequence)
def elman() -> nn.Module:
    """`nn.RNN` with a ReLU."""
    return _recurrent(nn.RNN(8, 12, nonlinearity="relu", batch_first=True), 12)


@hard(sequence)
def lstm_cell() -> nn.Module:
    """A loop in Python over the steps of a sequence."""

    def forward(n, x):
        state = n.cell(x[:, 0])
        for t in range(1, x.shape[1]):
            state = n.cell(x[:, t], state)
        return n.out(state[0])

    return Net(forward, cell=nn.LSTMCell(6, 12), out=nn.Linear(12, 2))
