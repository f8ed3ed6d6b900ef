"""Requests become batches, and results go back to who asked; no server is needed to see it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serve_fakes import WAIT, Doubler, spec, until

from sparsetrain.engine.serve import Options
from sparsetrain.engine.serve.metrics import Meter, Metrics
from sparsetrain.engine.serve.network import Signature
from sparsetrain.engine.serve.queue import Entry, Queue
from sparsetrain.engine.serve.worker import Worker


class Asked:
    """Entries of a worker, with what they were answered."""

    def __init__(self, network, **options):
        options = Options(**options)
        meter = Meter(Metrics(), network.name)
        signature = Signature.of(network, options.max_batch)
        self.worker = Worker(network, signature, options, meter)
        self.answers, self._all = {}, threading.Semaphore(0)
        self.worker.start()
        until(lambda: self.worker.state != "loading")

    def put(self, key, rows, items=None):
        def answer(found):
            self.answers[key] = found
            self._all.release()

        x = np.asarray(rows, np.float32)
        return self.worker.queue.put(Entry({"x": x}, items or len(x), answer))

    def wait(self, count):
        for _ in range(count):
            assert self._all.acquire(timeout=WAIT)

    def stop(self):
        self.worker.stop(WAIT)


@pytest.fixture
def asked():
    network = Doubler()
    found = Asked(network, batch_deadline_ms=0, max_batch=8)
    found.network = network
    network.shut()
    yield found
    network.gate.set()
    found.stop()


def rows(count, value):
    return np.full((count, 4), value)


def test_what_waits_is_computed_together_and_split(asked):
    asked.put("first", rows(1, 0))
    assert asked.network.called.wait(WAIT)
    for key in (1, 2, 3):
        asked.put(key, rows(key, key))
    asked.network.gate.set()
    asked.wait(4)
    assert asked.network.batches == [1, 6]
    for key in (1, 2, 3):
        np.testing.assert_array_equal(asked.answers[key]["y"], rows(key, 2 * key))


def test_no_batch_is_too_large_and_all_keep_their_turn(asked):
    asked.put("first", rows(1, 0))
    assert asked.network.called.wait(WAIT)
    for key, count in enumerate([3, 4, 2, 8, 1]):
        asked.put(key, rows(count, key))
    asked.network.gate.set()
    asked.wait(6)
    assert asked.network.batches == [1, 7, 2, 8, 1]
    assert list(asked.answers) == ["first", 0, 1, 2, 3, 4]


@pytest.mark.parametrize(("value", "error"), [(13, ValueError), (14, RuntimeError)])
def test_one_that_fails_takes_no_other_with_it(asked, value, error):
    asked.put("first", rows(1, 0))
    assert asked.network.called.wait(WAIT)
    for key in (1, value, 2):
        asked.put(key, rows(1, key))
    asked.network.gate.set()
    asked.wait(4)
    assert asked.network.batches == [1, 3, 1, 1, 1]
    assert isinstance(asked.answers[value], error)
    np.testing.assert_array_equal(asked.answers[2]["y"], rows(1, 4))


def test_what_nobody_waits_for_is_not_computed(asked):
    asked.put("first", rows(1, 0))
    assert asked.network.called.wait(WAIT)
    entry = Entry({"x": rows(5, 5)}, 5, lambda found: None)
    asked.worker.queue.put(entry)
    asked.put(1, rows(1, 1))
    asked.worker.queue.drop(entry)
    asked.network.gate.set()
    asked.wait(2)
    assert asked.network.batches == [1, 1]


def entry(items=1):
    return Entry({}, items, lambda found: None)


def test_a_batch_waits_for_others_until_its_deadline():
    queue, first, second = Queue(9), entry(), entry()
    queue.put(first)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(queue.take, 2, 3600)
        queue.put(second)
        assert taken.result(WAIT) == [first, second]  # full: the hour is not waited for
    late = entry()
    late.arrived = time.monotonic() - 3600
    queue.put(late)
    assert queue.take(2, 3600) == [late]  # its hour is over


def test_a_queue_is_bounded_and_ends():
    queue, entries = Queue(2), [entry(), entry()]
    assert [queue.put(e) for e in [*entries, entry()]] == [True, True, False]
    assert queue.full
    queue.drop(entries[0])
    queue.drop(entries[0])
    assert len(queue) == 1
    queue.close()
    assert not queue.put(entry())
    assert queue.take(5, 3600) == entries[1:]
    assert queue.take(5, 3600) == []


def test_networks_without_a_batch_compute_one_request_a_call():
    network = Doubler(inputs={"x": spec(2, 4)}, outputs={"y": spec(2, 4)})
    asked = Asked(network, batch_deadline_ms=60_000)
    network.batches.clear()
    for key in range(3):
        asked.put(key, rows(2, key), items=1)
    asked.wait(3)
    asked.stop()
    assert network.batches == [2, 2, 2]


def test_a_network_that_does_not_run_says_so(caplog):
    class Broken(Doubler):
        def __call__(self, arrays):
            raise RuntimeError("no such instruction")

    asked = Asked(Broken())
    asked.stop()
    assert asked.worker.state == "it does not run: no such instruction"
    assert "doubler does not run" in caplog.text
