"""Files of networks: read back as written, and refused in one line when damaged."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparsetrain_runtime import EngineError, Network, NetworkError, load
from sparsetrain_runtime.check import from_json, to_json
from sparsetrain_runtime.file import FORMAT, checksum, read
from sparsetrain_runtime.planner import Planner
from sparsetrain_runtime.program import Op, Program, Value
from sparsetrain_runtime.rules import RULES


def small():
    """One linear layer of 4 inputs and 3 outputs."""
    program = Program(
        [Value(((1, 0), 4)), Value(((1, 0), 3))],
        {"x": 0},
        {"output": 1},
        [Op("linear", [0], 1, {"activation": None}, {"weight": "w", "bias": "b"}, "fc, net.py:3")],
        batch=2,
    )
    rng = np.random.default_rng(0)
    tensors = {"w": rng.standard_normal((3, 4), np.float32), "b": np.ones(3, np.float32)}
    return program, tensors


def write(path, program, tensors, /, **more):
    header = {
        "program": to_json(program),
        "checksums": {n: checksum(t) for n, t in tensors.items()},
        "tuned": {"machine": None, "choices": {}},
        "info": {},
        **more,
    }
    metadata = {"format": FORMAT, "version": "1", "network": json.dumps(header)}
    save_file(tensors, path, metadata)


@pytest.fixture
def net(tmp_path):
    program, tensors = small()
    write(tmp_path / "net.st", program, tensors)
    return tmp_path / "net.st"


def test_a_program_survives_json():
    program, tensors = small()
    again = from_json(json.loads(json.dumps(to_json(program))), tensors)
    assert again == program


def test_read_maps_what_was_written(net):
    _, tensors = small()
    found = read(net)
    for name, tensor in tensors.items():
        assert (found.tensors[name] == tensor).all()
        assert not found.tensors[name].flags.writeable


def damaged(kind, raw):
    size = int.from_bytes(raw[:8], "little")
    if kind == "cut":
        return raw[:-5]
    if kind == "longer":
        return raw + b"1234"
    if kind == "flipped bit":
        return raw[:-1] + bytes([raw[-1] ^ 1])
    if kind == "no header":
        return b"\0" * len(raw)
    if kind == "a header of 2^60 bytes":
        return (2**60).to_bytes(8, "little") + raw[8:]
    if kind == "another format":
        return raw.replace(FORMAT.encode(), b"x" * len(FORMAT))
    assert kind == "no JSON"
    return raw[:8] + b"{" * size + raw[8 + size :]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "does not lie in the file|cut short"),
        ("longer", "goes on after its last tensor"),
        ("flipped bit", "its checksum differs"),
        ("no header", "no safetensors file"),
        ("a header of 2^60 bytes", "no safetensors file"),
        ("another format", "no network that sparsetrain.deploy wrote"),
        ("no JSON", "damaged|nested too deeply"),
    ],
)
def test_damage_is_one_line(net, kind, message):
    net.write_bytes(damaged(kind, net.read_bytes()))
    with pytest.raises(NetworkError, match=message) as caught:
        load(net, 1)
    assert "\n" not in str(caught.value)


def test_missing_and_odd_files(tmp_path):
    with pytest.raises(NetworkError, match="there is no network"):
        load(tmp_path / "none.st")
    with pytest.raises(NetworkError, match="damaged|no regular file"):
        load(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(NetworkError, match="no safetensors file"):
        load(tmp_path / "empty")


CHANGES = {
    "reads what is not made": lambda p: p["ops"][0].update(inputs=[1]),
    "a value out of range": lambda p: p["ops"][0].update(output=7),
    "an unknown kind": lambda p: p["ops"][0].update(kind="exec"),
    "an unknown tensor": lambda p: p["ops"][0]["tensors"].update(weight="v"),
    "a negative size": lambda p: p["values"][0].__setitem__(1, [-4, 4]),
    "a huge size": lambda p: p["values"][0].__setitem__(1, [[1, 0], 2**62]),
    "another version": lambda p: p.update(version=9),
    "no outputs": lambda p: p.update(outputs={}),
    "an attribute too many": lambda p: p["ops"][0]["attrs"].update(code="1"),
    "another activation": lambda p: p["ops"][0]["attrs"].update(activation={"kind": "os"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_program_that_is_none_is_one_line(tmp_path, change):
    program, tensors = small()
    given = to_json(program)
    CHANGES[change](given)
    write(tmp_path / "net.st", program, tensors, program=json.loads(json.dumps(given)))
    with pytest.raises(NetworkError, match="damaged") as caught:
        load(tmp_path / "net.st", 1)
    assert "\n" not in str(caught.value)


def test_arrays_of_other_sizes_never_reach_the_engine():
    program, tensors = small()
    network = Network(program, tensors, 1)
    network.prepare(2)
    session = network._ready[2].session
    x, y = np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float32)
    for inputs, outputs in (([x[:1]], [y]), ([x], [y[:1]]), ([x], [y, y]), ([x], [y.T])):
        with pytest.raises(EngineError, match="puts must be contiguous"):
            session.run(inputs, outputs)


def test_a_size_that_a_batch_makes_negative_is_one_line():
    program, tensors = small()
    program.values[1] = Value(((1, -5), 3))
    with pytest.raises(EngineError, match=r"network: of a batch of 2 output would be \[-3, 3\]"):
        Network(program, tensors, 1)(np.ones((2, 4), np.float32))


def test_a_stride_far_beyond_the_image_is_planned_at_once():
    attrs = {"stride": [1, 2**33], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    op = Op("convolution", [0], 1, {**attrs, "activation": None}, {"weight": "w"}, "conv")
    values = [Value(((1, 0), 1, 3, 3)), Value(((1, 0), 1, 2, 1))]
    program = Program(values, {"x": 0}, {"y": 1}, [op], batch=2)
    planned = Planner(program, 2, {"w": ("float32", (1, 1, 2, 2))}).plan(RULES)
    assert len(planned.steps) < 9


def test_a_batch_that_is_not_first_is_computed_whole():
    program = Program(
        [Value(((1, 0), 4)), Value((4, (1, 0)))],
        {"x": 0},
        {"y": 1},
        [Op("permute", [0], 1, {"axes": [1, 0]})],
        batch=2,
    )
    x = np.random.default_rng(0).standard_normal((40, 4), np.float32)
    assert (Network(program, {}, 1)(x) == x.T).all()
