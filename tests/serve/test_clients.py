"""Clients that others wrote: tritonclient, and a parser of Prometheus' format."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve_fakes import WAIT, Doubler, running, spec
from tritonclient import http as triton


class Pair(Doubler):
    """Two inputs of two types, two outputs."""

    def __init__(self):
        inputs = {"a": spec(None, 2), "ids": spec(None, 3, dtype="int64")}
        outputs = {"sum": spec(None, 2), "any": spec(None, dtype="bool")}
        super().__init__("pair", inputs, outputs, {"classes": ["cat", "dog"]})

    def __call__(self, arrays):
        a, ids = arrays["a"], arrays["ids"]
        total = ids.sum(1, keepdims=True)
        return {"sum": (a + total).astype(np.float32), "any": total[:, 0] != 0}


@pytest.fixture(scope="module")
def served():
    with running([Doubler(), Pair()], batch_deadline_ms=5) as found:
        yield found


@pytest.fixture
def client(served):
    with triton.InferenceServerClient(served.place, concurrency=8) as found:
        yield found


def given(name, array, datatype, binary=True):
    found = triton.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def pair(rows, binary=True):
    a = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    ids = np.arange(3 * rows).reshape(rows, 3)
    return a, ids, [given("a", a, "FP32", binary), given("ids", ids, "INT64", binary)]


def test_triton_sees_a_server_and_its_models(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("pair")
    assert client.is_model_ready("pair", "1")
    assert not client.is_model_ready("pair", "2")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "sparsetrain"
    assert [m["name"] for m in client.get_model_repository_index()] == ["doubler", "pair"]
    found = client.get_model_metadata("pair")
    assert found["inputs"][1] == {"name": "ids", "datatype": "INT64", "shape": [-1, 3]}
    assert found["outputs"][1] == {"name": "any", "datatype": "BOOL", "shape": [-1]}
    assert found["parameters"] == {"classes": ["cat", "dog"]}
    config = client.get_model_config("pair")
    assert config["max_batch_size"] == 32
    assert config["input"][0] == {"name": "a", "data_type": "TYPE_FP32", "dims": [2]}


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("wanted", [None, True, False])
def test_triton_infers_in_bytes_and_json(client, sent, wanted):
    a, ids, inputs = pair(3, sent)
    names = ["any", "sum"]
    asked = None if wanted is None else [triton.InferRequestedOutput(n, wanted) for n in names]
    found = client.infer("pair", inputs, outputs=asked, request_id="7")
    np.testing.assert_array_equal(found.as_numpy("sum"), a + ids.sum(1, keepdims=True))
    np.testing.assert_array_equal(found.as_numpy("any"), ids.sum(1) != 0)
    assert found.as_numpy("any").dtype == bool
    assert found.get_response()["id"] == "7"


def test_triton_may_ask_for_one_output_alone(client):
    found = client.infer("pair", pair(1)[2], outputs=[triton.InferRequestedOutput("any")])
    assert found.as_numpy("sum") is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("binary", [True, False])
def test_triton_gets_what_is_not_finite_as_it_is(client, value, binary):
    x = np.array([[value, 0, 1, -value]], np.float32)
    found = client.infer(
        "doubler",
        [given("x", x, "FP32", binary)],
        outputs=[triton.InferRequestedOutput("y", binary)],
    )
    np.testing.assert_array_equal(found.as_numpy("y"), 2 * x)


@pytest.mark.parametrize(
    ("model", "shape", "datatype", "status", "message"),
    [
        ("other", (1, 4), "FP32", "404", "no model is called other; there are doubler, pair"),
        ("doubler", (1, 5), "FP32", "400", "doubler: input x must be [batch, 4], got [1, 5]"),
        ("doubler", (1, 4), "FP64", "400", "doubler: input x must be FP32, got 'FP64'"),
        ("pair", (1, 4), "FP32", "400", "pair: no input is called 'x'; there are a, ids"),
    ],
)
def test_triton_is_told_what_is_wrong(client, model, shape, datatype, status, message):
    array = np.zeros(shape, {"FP32": np.float32, "FP64": np.float64}[datatype])
    with pytest.raises(triton.InferenceServerException) as told:
        client.infer(model, [given("x", array, datatype)])
    assert (told.value.status(), told.value.message()) == (status, message)


def test_inputs_must_have_one_batch(client):
    inputs = [pair(2)[2][0], pair(3)[2][1]]
    with pytest.raises(triton.InferenceServerException, match="inputs differ in their batch"):
        client.infer("pair", inputs)


def test_many_clients_of_two_models_get_their_own_rows(served):
    def ask(i):
        rows = 1 + i % 5
        with triton.InferenceServerClient(served.place) as client:
            if i % 2:
                a, ids, inputs = pair(rows)
                found = client.infer("pair", inputs).as_numpy("sum")
                return np.array_equal(found, a + ids.sum(1, keepdims=True))
            x = np.full((rows, 4), 100 + i, np.float32)
            found = client.infer("doubler", [given("x", x, "FP32")]).as_numpy("y")
            return np.array_equal(found, 2 * x)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64), timeout=WAIT))


def test_metrics_are_those_of_prometheus(client, served):
    def samples():
        text = served.call("GET", "/metrics")[2].decode()
        families = text_string_to_metric_families(text)
        return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}

    before = samples()
    client.infer("pair", pair(3)[2])
    with pytest.raises(triton.InferenceServerException):
        client.infer("pair", pair(40)[2])
    after = samples()

    def grown(*key):
        name = (f"sparsetrain_serve_{key[0]}", *key[1:])
        return after[name] - before.get(name, 0)

    assert grown("requests_total", "200", "pair") == 1
    assert grown("requests_total", "400", "pair") == 1
    assert grown("request_seconds_count", "pair") == 2
    assert grown("batch_items_sum", "pair") == 3
    assert grown("batch_items_count", "pair") == 1
    assert grown("compute_seconds_count", "pair") == 1
    assert after["sparsetrain_serve_queue_requests", "pair"] == 0
    assert after[("process_resident_memory_bytes",)] > 0
