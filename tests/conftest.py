"""Real parts for the tests: an embedded event log, and a whole system."""

import pytest

from stream.clickhouse import EventLog
from tests.support import FRONT, KEY, Front, free_port, start, start_system, stop


@pytest.fixture(scope="session")
def front(tmp_path_factory):
    """The embedded event log with its tables."""
    port = free_port()
    process = start(FRONT, tmp_path_factory.mktemp("eventlog"), port, KEY)
    url = f"http://127.0.0.1:{port}"
    writer = EventLog(url, writer_key=KEY)
    writer.wait(30)
    writer.migrate()
    yield Front(url, port, writer, EventLog(url))
    stop(process)


@pytest.fixture(scope="session")
def system(tmp_path_factory):
    """Everything, embedded."""
    found = start_system(tmp_path_factory.mktemp("system") / "var")
    yield found
    stop(found.process)

