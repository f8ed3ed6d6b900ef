"""The Open Inference Protocol, byte by byte: what is answered, and what is refused."""

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_fakes import Doubler

from sparsetrain.engine.serve import answer, json_text
from sparsetrain.engine.serve.network import Signature
from sparsetrain.engine.serve.refusal import Refusal
from sparsetrain.engine.serve.request import parse

ROW = [[1, 2, 3, 4]]
X = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
BINARY = {k: v for k, v in X.items() if k != "data"} | {"parameters": {"binary_data_size": 16}}
INFER = "/v2/models/doubler/infer"


def test_json_in_and_out(quiet):
    status, headers, answer = quiet.infer([*ROW, [5, 6, 7, 8]], id="mine")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert answer == {
        "model_name": "doubler",
        "model_version": "1",
        "id": "mine",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 4], "data": [2, 4, 6, 8, 10, 12, 14, 16]}
        ],
    }


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2, 3, 4]], [[[1], [2]], [[3], [4]]]])
def test_lists_may_be_nested(quiet, data):
    status, _, answer = quiet.call("POST", INFER, json.dumps({"inputs": [X | {"data": data}]}))
    assert (status, answer["outputs"][0]["data"]) == (200, [2, 4, 6, 8])


def binary(quiet, head, blob, length=None):
    text = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(text) if length is None else length)}
    return quiet.call("POST", INFER, text + blob, headers)


@pytest.mark.parametrize("name", ["a", "an odd length"])  # the numbers then lie unaligned
def test_binary_in_and_out(quiet, name):
    head = {"id": name, "inputs": [BINARY], "parameters": {"binary_data_output": True}}
    status, headers, content = binary(quiet, head, struct.pack("<4f", 1, 2, 3, 4))
    size = int(headers["inference-header-content-length"])
    assert status == 200
    assert headers["content-type"] == "application/octet-stream"
    (output,) = json.loads(content[:size])["outputs"]
    assert output["parameters"] == {"binary_data_size": 16}
    assert struct.unpack("<4f", content[size:]) == (2, 4, 6, 8)


def test_each_output_may_be_asked_for_in_its_own_way(quiet):
    asked = [{"name": "y", "parameters": {"binary_data": False}}]
    head = {"inputs": [BINARY], "outputs": asked, "parameters": {"binary_data_output": True}}
    status, _, answer = binary(quiet, head, struct.pack("<4f", 1, 2, 3, 4))
    assert (status, answer["outputs"][0]["data"]) == (200, [2, 4, 6, 8])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_passes(quiet, value):
    status, _, answer = quiet.infer([[value, 0, 1e300, 1]])
    assert status == 200
    np.testing.assert_equal(answer["outputs"][0]["data"], [value, 0, math.inf, 2])


@pytest.mark.parametrize(("row", "status"), [(13, 400), (14, 500)])
def test_what_a_network_says_is_passed_on(quiet, row, status):
    found, _, answer = quiet.infer([[row, 0, 0, 0]])
    assert (found, answer) == (status, {"error": f"doubler: a row begins with {row}"})
    assert quiet.infer(ROW)[0] == 200


def test_a_fault_of_the_server_is_500(quiet, monkeypatch):
    monkeypatch.setattr(quiet.service, "metrics", None)
    status, _, answer = quiet.call("GET", "/metrics")
    assert (status, answer) == (500, {"error": "the server failed: AttributeError"})


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_a_model_says_what_it_takes(quiet, version):
    status, _, answer = quiet.call("GET", f"/v2/models/doubler{version}")
    assert status == 200
    assert answer["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert quiet.call("GET", f"/v2/models/doubler{version}/ready")[0] == 200


def test_the_server_says_what_it_is(quiet):
    status, _, answer = quiet.call("GET", "/v2")
    assert status == 200
    assert answer["name"] == "sparsetrain"
    assert "binary_tensor_data" in answer["extensions"]
    assert quiet.call("GET", "/v2/health/live")[2] == {"live": True}
    assert quiet.call("GET", "/v2/health/ready")[2] == {"ready": True}
    _, _, models = quiet.call("POST", "/v2/repository/index")
    assert models == [{"name": "doubler", "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v2/models/other", 404, "no model is called other; there are doubler"),
        ("GET", "/v2/models/doubler/versions/2", 404, "doubler has version 1 only, got 2"),
        ("GET", "/nothing", 404, "GET /nothing: Not Found"),
        ("GET", INFER, 405, "Method Not Allowed"),
        ("POST", "/v2/models/other/infer", 404, "no model is called other"),
    ],
)
def test_what_is_not_there(quiet, method, path, status, message):
    found, _, answer = quiet.call(method, path, "{}" if method == "POST" else None)
    assert found == status
    assert message in answer["error"]


def without(name):
    return {"inputs": [{k: v for k, v in X.items() if k != name}]}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("", "not JSON"),
        ("[1, 2", "not JSON"),
        ("NaN and more", "not JSON"),
        ("[" * 1025, "not JSON"),
        ("[NaN" + ", [" * 1025, "not JSON"),
        ("[" * 100_000, "the request has more values than the inputs"),
        ("[" + "{}," * 100_000, "the request has more values than the inputs"),
        ("[" + "0," * 100_000, "the request has more values than the inputs"),
        ([1], "the request must be a JSON object, got list"),
        ({}, "the request needs inputs as a list"),
        ({"inputs": []}, "doubler: input x is missing"),
        ({"inputs": [1]}, "an input must be a JSON object, got int"),
        ({"inputs": [X, X]}, "x comes twice"),
        ({"inputs": [X | {"name": "z"}]}, "no input is called 'z'; there are x"),
        ({"inputs": [X | {"name": ["x"]}]}, "no input is called ['x']"),
        ({"inputs": [X | {"datatype": "FP64"}]}, "input x must be FP32, got 'FP64'"),
        ({"inputs": [X | {"shape": [4]}]}, "input x must be [batch, 4], got [4]"),
        ({"inputs": [X | {"shape": [1, 5]}]}, "input x must be [batch, 4], got [1, 5]"),
        ({"inputs": [X | {"shape": [-1, 4]}]}, "a shape that is not of sizes"),
        ({"inputs": [X | {"shape": [True, 4]}]}, "a shape that is not of sizes"),
        ({"inputs": [X | {"shape": [10**30, 4]}]}, "a shape that is not of sizes"),
        ({"inputs": [X | {"shape": [2**30, 4]}]}, "needs 4294967296 numbers"),
        ({"inputs": [X | {"shape": "4"}]}, "needs its shape as a list"),
        ({"inputs": [X | {"shape": [0, 4], "data": []}]}, "1 to 32 items, got 0"),
        ({"inputs": [X | {"shape": [33, 4], "data": [0] * 132}]}, "1 to 32 items, got 33"),
        (without("shape"), "needs its shape as a list"),
        (without("data"), "needs a list as its data"),
        (without("datatype"), "must be FP32, got None"),
        ({"inputs": [X | {"data": [1, 2, 3]}]}, "needs 4 numbers for [1, 4], got 3"),
        ({"inputs": [X | {"data": ["1", 2, 3, 4]}]}, "takes float or int, got str"),
        ({"inputs": [X | {"data": [None, 2, 3, 4]}]}, "takes float or int, got NoneType"),
        ({"inputs": [X | {"data": [True, 2, 3, 4]}]}, "takes float or int, got bool"),
        ({"inputs": [X | {"data": [[1, 2], 3, 4]}]}, "takes float or int, got list"),
        ({"inputs": [X], "outputs": [{"name": "q"}]}, "no output is called 'q'; there are y"),
        ({"inputs": [X], "outputs": 3}, "needs outputs as a list"),
        ({"inputs": [X], "id": 3}, "id must be printable text"),
        ('{"inputs": [], "id": "\\ud800", "a": NaN}', "id must be printable text"),
        ({"inputs": [BINARY]}, "which needs Inference-Header-Content-Length"),
        ({"inputs": [X | {"parameters": 3}]}, "parameters must be a JSON object"),
        (
            {"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
            "the parameter classification is not supported",
        ),
    ],
)
def test_bad_requests_are_told_why(quiet, head, message):
    text = head if isinstance(head, str) else json.dumps(head)
    status, _, answer = quiet.call("POST", INFER, text)
    assert status == 400
    assert message in answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("size", "blob", "length", "message"),
    [
        (16, 15, None, "binary_data_size 16, and 15 bytes are left"),
        (16, 17, None, "the body has 1 bytes after those"),
        (12, 12, None, "needs 16 bytes for [1, 4], got 12"),
        (-1, 16, None, "binary_data_size -1"),
        ("16", 16, None, "binary_data_size '16'"),
        (16, 16, 0, "must be 1 to the body's"),
        (16, 16, 10**9, "must be 1 to the body's"),
        (16, 16, 10, "not JSON"),
        (16, 16, "1e3", "must be a number, got '1e3'"),
        (16, 16, -5, "must be a number, got '-5'"),
    ],
)
def test_binary_bodies_are_of_the_size_that_they_say(quiet, size, blob, length, message):
    head = {"inputs": [BINARY | {"parameters": {"binary_data_size": size}}]}
    status, _, answer = binary(quiet, head, b"\0" * blob, length)
    assert status == 400
    assert message in answer["error"]


def test_much_json_is_refused_before_it_is_parsed(quiet, monkeypatch):
    monkeypatch.setattr(json_text, "LARGEST", 100)
    status, _, found = quiet.call("POST", INFER, b" " * 101)
    assert status == 413
    assert "100 bytes of JSON at most; larger tensors come as bytes" in found["error"]


def test_large_outputs_come_as_bytes_alone(quiet, monkeypatch):
    monkeypatch.setattr(answer, "LARGEST", 7)
    status, _, found = quiet.infer(ROW * 2)
    assert status == 400
    assert found["error"] == "output y has 8 numbers, and JSON 7 at most: ask for bytes"
    assert quiet.infer(ROW * 2, parameters={"binary_data_output": True})[0] == 200


def test_json_that_is_parsed_aside_is_the_same(quiet, monkeypatch):
    monkeypatch.setattr("sparsetrain.engine.serve.infer.ASIDE", 0)
    assert quiet.infer(ROW)[2]["outputs"][0]["data"] == [2, 4, 6, 8]
    assert quiet.call("POST", INFER, "{")[0] == 400


SIGNATURE = Signature.of(Doubler(), 4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=3),
)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_comes_is_a_request_or_refused_in_one_line(data):
    """A right request in which one value is another."""
    head = {"id": "a", "inputs": [dict(BINARY)], "outputs": [{"name": "y"}], "parameters": {}}
    place = data.draw(st.sampled_from([head, head["inputs"][0], head["outputs"][0]]))
    name = data.draw(st.sampled_from([*place, "parameters", "data"]))
    place[name] = data.draw(VALUES)
    text = json.dumps(head).encode()
    body = text + data.draw(st.binary(max_size=20) | st.just(b"\0" * 16))
    length = data.draw(st.none() | st.just(len(text)) | st.integers(-1, 400))
    found = outcome(body, length)
    if isinstance(found, Refusal):
        assert found.status == 400
        assert list(json.loads(found.response().body)) == ["error"]
    else:
        assert found.arrays["x"].shape == (found.items, 4)


def outcome(body, length):
    try:
        return parse(body, length, SIGNATURE)
    except Refusal as refusal:
        return refusal


def test_compressed_bodies_are_refused(quiet):
    status, _, answer = quiet.call("POST", INFER, b"", {"Content-Encoding": "gzip"})
    assert (status, answer["error"]) == (415, "bodies must not be compressed, got gzip")
