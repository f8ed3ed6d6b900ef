"""What a server has room for; and clients that are slow, silent or gone harm nobody else."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from serve_fakes import WAIT, Doubler, running, spec, until

from sparsetrain.engine.serve import connection

ROW = [[1, 2, 3, 4]]
HEAD = b"POST /v2/models/doubler/infer HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture
def held(request):
    """A server whose network is computing for somebody, and goes on when the gate opens."""
    network = Doubler()
    options = {"batch_deadline_ms": 0} | getattr(request, "param", {})
    with running([network], **options) as server, ThreadPoolExecutor(8) as pool:
        network.shut()
        server.network, server.pool = network, pool
        server.first = pool.submit(server.infer, ROW)
        assert network.called.wait(WAIT)
        yield server
        network.gate.set()


def waiting(server):
    return len(server.service.models["doubler"].worker.queue)


def connected(server):
    host, port = server.place.split(":")
    return socket.create_connection((host, int(port)), WAIT)


def answered(client):
    """(status, error) of an answer after which the server hangs up."""
    received = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("held", [{"queue": 2}], indirect=True)
def test_a_full_queue_is_503_and_says_when_to_come_back(held):
    more = [held.pool.submit(held.infer, ROW) for _ in range(2)]
    until(lambda: waiting(held) == 2)
    status, headers, answer = held.infer(ROW)
    assert (status, headers["retry-after"]) == (503, "1")
    assert answer["error"] == "doubler: too many requests are waiting; try again"
    held.network.gate.set()
    assert [job.result(WAIT)[0] for job in [held.first, *more]] == [200, 200, 200]


@pytest.mark.parametrize("held", [{"timeout": 0.2}], indirect=True)
def test_a_time_limit_is_504_and_what_waited_is_dropped(held):
    status, _, answer = held.infer(ROW)
    assert (status, answer["error"]) == (504, "doubler: no result within the time limit")
    assert held.first.result(WAIT)[0] == 504
    assert waiting(held) == 0
    held.network.gate.set()
    assert held.infer(ROW)[0] == 200
    assert held.network.batches == [1, 1]  # the first and the last


def test_a_client_may_set_a_limit_of_its_own(held):
    assert held.infer(ROW, parameters={"timeout": 1000})[0] == 504
    held.network.gate.set()
    assert held.first.result(WAIT)[0] == 200


def test_the_work_of_who_hangs_up_is_dropped(held):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    body = json.dumps({"inputs": [tensor]}).encode()
    with connected(held) as client:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        until(lambda: waiting(held) == 1)
    until(lambda: waiting(held) == 0)
    held.network.gate.set()
    assert held.first.result(WAIT)[0] == 200
    assert held.network.batches == [1]
    assert 'requests_total{code="499",model="doubler"} 1.0' in metrics(held)


def metrics(server):
    return server.call("GET", "/metrics")[2].decode()


def test_a_body_that_is_too_large_is_refused_before_it_comes():
    with running([Doubler()], max_body=1000) as server:
        for header in (b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"):
            with connected(server) as client:
                client.sendall(HEAD + header + b"\r\nConnection: close\r\n\r\n")
                if header.startswith(b"T"):
                    client.sendall(b"3E9\r\n" + b"." * 1001)  # and never an end
                assert answered(client) == (413, "a request has 1000 bytes at most")
        assert server.service.room.taken == 0


def test_who_goes_on_sending_after_its_413_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(connection, "LINGER", 0.1)
    with running([Doubler()], max_body=1000) as server, connected(server) as client:
        client.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            send_for_ever(client)
        assert server.infer(ROW)[0] == 200


def test_a_client_that_waits_for_leave_to_send_gets_its_413_instead():
    with running([Doubler()], max_body=1000) as server, connected(server) as client:
        client.sendall(HEAD + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413")


def test_bodies_together_have_a_limit(server):
    server.service.room.taken = server.service.room.size
    status, headers, answer = server.infer(ROW)
    assert (status, headers["retry-after"]) == (503, "1")
    assert "all the memory" in answer["error"]
    server.service.room.taken = 0
    assert server.infer(ROW)[0] == 200
    assert server.service.room.taken == 0


def test_half_a_body_is_waited_for_no_longer_than_the_limit():
    with running([Doubler()], timeout=0.2) as server, connected(server) as client:
        client.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        assert server.infer(ROW)[0] == 200
        assert answered(client) == (408, "the body took longer than 0.2 s")
        assert server.service.room.taken == 0


@pytest.mark.parametrize("sent", [b"", b"POST /v2/models", HEAD, HEAD + b"X: 1\r\n"])
def test_a_head_that_never_ends_is_hung_up_on(sent):
    with running([Doubler()], head_timeout=0.1) as server, connected(server) as client:
        client.sendall(sent)
        assert server.infer(ROW)[0] == 200
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"\0" * 300,
        b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
    ],
)
def test_garbage_is_400(quiet, sent):
    with connected(quiet) as client:
        client.sendall(sent)
        status, error = answered(client)
        assert status == 400
        assert error == "this is no request of HTTP/1.1, or its head is too long"
    assert quiet.infer(ROW)[0] == 200


def test_a_head_without_end_is_not_kept(quiet):
    with connected(quiet) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):
            send_for_ever(client)
        assert quiet.infer(ROW)[0] == 200


def send_for_ever(client):
    for _ in range(10_000):
        client.sendall(b"." * 100_000)


def test_answers_do_not_wait_for_acknowledgements(quiet):
    with connected(quiet):
        until(lambda: quiet.server.server_state.connections)
        (one,) = quiet.server.server_state.connections
        taken = one.transport.get_extra_info("socket")
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_who_asks_for_nothing_loses_the_place_where_there_are_too_few():
    with running([Doubler()], connections=3) as server:
        idle = [connected(server) for _ in range(3)]
        until(lambda: len(server.server.server_state.connections) == 3)
        assert server.infer(ROW)[0] == 200
        for client in idle:
            client.close()


@pytest.mark.parametrize("held", [{"connections": 1}], indirect=True)
def test_no_more_connections_than_there_are_places(held):
    with connected(held) as client:
        assert answered(client) == (503, "too many connections; try again")
    held.network.gate.set()
    assert held.first.result(WAIT)[0] == 200


class Wide(Doubler):
    """More numbers for a row than the buffers between server and client hold."""

    def __call__(self, arrays):
        return {"y": arrays["x"].repeat(2**20, 1)}


def test_an_answer_that_nobody_takes_is_given_up():
    wide = Wide(outputs={"y": spec(None, 2**22)})
    with running([wide], max_batch=1, timeout=0.3, batch_deadline_ms=0) as server:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0] * 4}
        asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        body = json.dumps(asked).encode()
        with connected(server) as client:
            client.sendall(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            until(lambda: 'code="200"' in metrics(server))
            until(lambda: not server.server.server_state.connections)
