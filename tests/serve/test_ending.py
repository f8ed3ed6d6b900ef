"""Signals end a server's process: not ready at once, what is in flight done, exit code 0."""

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
from serve_fakes import WAIT, Doubler, running, until

import sparsetrain

ROW = [[1, 2, 3, 4]]
PROGRAM = """
import sys
from types import ModuleType

sys.modules["torch"] = None  # imports of it fail
for name in ("sparsetrain", "sparsetrain.engine"):  # without what they import
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [{package!r} + name.removeprefix("sparsetrain").replace(".", "/")]
sys.path.insert(0, {tests!r})

from serve_fakes import Doubler
from sparsetrain.engine.serve import Options, run

class Slow(Doubler):
    def __call__(self, arrays):
        if arrays["x"].any():
            print("computing", flush=True)
            assert sys.stdin.readline()
        return super().__call__(arrays)

run([Slow()], Options(), port=0, announce=lambda text: print(text, flush=True))
"""


@pytest.fixture
def process():
    """A process of its own, which has no torch."""
    package, tests = Path(sparsetrain.__file__).parent, Path(__file__).parents[1]
    code = PROGRAM.format(package=str(package), tests=str(tests))
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **options) as found:
        yield found
        found.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_what_is_in_flight_finish(process, number):
    place = process.stdout.readline().strip().removeprefix("http://")
    until(lambda: status_of(place) == 200)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(infer, place)
        assert process.stdout.readline() == "computing\n"
        process.send_signal(number)
        until(lambda: status_of(place) == 503)  # and yet the process is there
        assert infer(place)[0] == 503
        process.stdin.write("go on\n")
        process.stdin.flush()
        status, text = answer.result(WAIT)
    assert status == 200
    assert b"[2.0,4.0,6.0,8.0]" in text
    assert process.wait(WAIT) == 0


def test_a_second_signal_waits_for_nothing(process):
    place = process.stdout.readline().strip().removeprefix("http://")
    until(lambda: status_of(place) == 200)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(infer, place)
        assert process.stdout.readline() == "computing\n"
        process.send_signal(signal.SIGTERM)
        until(lambda: status_of(place) == 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0
        assert answer.result(WAIT) == (503, b'{"error":"the server ended before"}')


def ask(place, method, path, body=None):
    connection = HTTPConnection(place, timeout=WAIT)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def status_of(place):
    return ask(place, "GET", "/v2/health/ready")[0]


def infer(place):
    tensor = b'{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}'
    return ask(place, "POST", "/v2/models/doubler/infer", b'{"inputs": [%b]}' % tensor)


def test_while_it_ends_nothing_new_is_taken(doubler):
    with running([doubler], batch_deadline_ms=0) as server, ThreadPoolExecutor(1) as pool:
        doubler.shut()
        first = pool.submit(server.infer, ROW)
        assert doubler.called.wait(WAIT)
        server.end()
        until(lambda: not server.service.ready)
        status, headers, answer = server.infer(ROW)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert answer["error"] == "the server is about to end"
        assert server.call("GET", "/v2/models/doubler/ready")[0] == 503
        assert server.call("GET", "/v2/health/live")[0] == 200
        doubler.gate.set()
        assert first.result(WAIT)[0] == 200
        until(lambda: refused(server.place))


def refused(place):
    host, port = place.split(":")
    try:
        socket.create_connection((host, int(port)), WAIT).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_call_that_never_ends_does_not_keep_the_server(doubler):
    with running([doubler], batch_deadline_ms=0, timeout=0.2) as server:
        doubler.shut()
        assert server.infer(ROW)[0] == 504
        server.end()
        until(lambda: refused(server.place))
    doubler.gate.set()


def test_a_model_that_does_not_run_is_not_ready():
    class Broken(Doubler):
        def __call__(self, arrays):
            raise RuntimeError("no such instruction")

    with running([Broken("broken"), Doubler()]) as server:
        assert server.call("GET", "/v2/health/ready")[0] == 503
        assert server.call("GET", "/v2/models/doubler/ready")[0] == 200
        assert server.call("GET", "/v2/models/broken/ready")[0] == 503
        _, _, models = server.call("POST", "/v2/repository/index")
        assert [m["state"] for m in models] == ["UNAVAILABLE", "READY"]
        assert models[0]["reason"] == "it does not run: no such instruction"
        assert server.infer(ROW, "broken")[0] == 503
        assert server.infer(ROW)[0] == 200
