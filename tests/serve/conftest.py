import pytest
from serve_fakes import Doubler, running


@pytest.fixture
def doubler():
    return Doubler()


@pytest.fixture
def server(doubler):
    with running([doubler], batch_deadline_ms=0) as found:
        yield found


@pytest.fixture(scope="module")
def quiet():
    """One for all tests of a file that only ask."""
    with running([Doubler()], batch_deadline_ms=0) as found:
        yield found
