"""Too much at once, too slow, too late: refused in time, and nothing of it is recorded."""

import contextlib
import http.client
import json
import socket

import pytest

from tests.live.wire import call, until
from tests.support import deploy_small, start_system, stop

PATH = "/v1/deployments/d/predictions"
MOST = 200_000


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bounded")
    system = start_system(folder, CHAMPION_MOST_UNDER_WAY=str(MOST), CHAMPION_DEADLINE_MS="15000")
    deploy_small(system, folder, shadows=())
    yield system
    stop(system.process)


@pytest.fixture(scope="module", autouse=True)
def silent(bounded):
    """A client that began to ask and went silent, while the others are tested."""
    found = socket.create_connection(("127.0.0.1", int(bounded.environment["CHAMPION_PORT"])), timeout=60)
    found.sendall(b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-")
    yield found
    found.close()


def rows(count):
    return json.dumps([{"x": k / 7, "z": -k} for k in range(count)]).encode()


class Slow:
    """A request whose body comes in two halves."""

    def __init__(self, system, body, **headers):
        self.body = body
        self.connection = http.client.HTTPConnection("127.0.0.1", int(system.environment["CHAMPION_PORT"]), timeout=60)
        self.connection.putrequest("POST", PATH)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.connection.putheader(name, value)
        self.connection.endheaders()
        self.connection.send(body[: len(body) // 2])

    def finish(self):
        self.connection.send(self.body[len(self.body) // 2 :])

    def answer(self):
        found = self.connection.getresponse()
        return found.status, json.loads(found.read())


def under_way(system):
    text = call(system, "GET", "/metrics", parse=False)[1].decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("champion_bytes_under_way "))


def test_past_the_bytes_under_way_a_request_is_told_to_come_again(bounded):
    large, small = rows(4000), rows(2)
    assert MOST / 2 < len(large) < MOST
    slow = Slow(bounded, large)
    until(lambda: under_way(bounded) == len(large))
    other = http.client.HTTPConnection("127.0.0.1", int(bounded.environment["CHAMPION_PORT"]), timeout=60)
    other.request("POST", PATH, large, {"Content-Type": "application/json"})
    refused = other.getresponse()
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert json.loads(refused.read())["error"]["code"] == "too_much_under_way"
    assert call(bounded, "POST", PATH, small)[0] == 200
    slow.finish()
    status, answer = slow.answer()
    assert (status, len(answer["predictions"])) == (200, 4000)
    until(lambda: under_way(bounded) == 0)
    assert call(bounded, "POST", PATH, large)[0] == 200


def test_one_request_alone_may_be_larger_than_the_bound(bounded):
    body = rows(9000)
    assert len(body) > MOST
    status, answer, _ = call(bounded, "POST", PATH, body)
    assert (status, len(answer["predictions"])) == (200, 9000)


def test_what_cannot_be_answered_in_time_is_given_up_and_leaves_no_row(bounded):
    late = {"Content-Type": "application/json", "X-Request-Timeout-Ms": "1", "X-Request-ID": "too-late"}
    status, answer, _ = call(bounded, "POST", PATH, rows(5000), late)
    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
    status, answer, _ = call(bounded, "POST", PATH, rows(5000), late | {"X-Request-Timeout-Ms": "60000", "X-Request-ID": "in-time"})
    assert (status, answer["recorded"]) == (200, True)
    bounded.api.get("/v1/deployments/d", after=answer["position"])
    counts = bounded.sql("SELECT request_id, count() AS n FROM predictions WHERE request_id IN ('too-late', 'in-time') GROUP BY request_id")
    assert counts == [{"request_id": "in-time", "n": 5000}]
    assert bounded.sql("SELECT status, code FROM refusals WHERE request_id = 'too-late'") == [{"status": 504, "code": "deadline_exceeded"}]


def test_a_body_that_does_not_come_ends_at_the_deadline(bounded):
    slow = Slow(bounded, rows(100), **{"X-Request-Timeout-Ms": "300"})
    status, answer = slow.answer()
    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
    until(lambda: under_way(bounded) == 0)


@pytest.mark.parametrize("text", ["0", "-5", "soon", "1.5", "9" * 20])
def test_a_time_that_is_none_is_refused(bounded, text):
    status, answer, _ = call(bounded, "POST", PATH, rows(1), {"Content-Type": "application/json", "X-Request-Timeout-Ms": text})
    assert (status, answer["error"]["code"]) == (422, "wrong_option")


def test_a_connection_that_says_half_a_head_is_closed_and_an_idle_one_is_not(bounded, silent):
    idle = http.client.HTTPConnection("127.0.0.1", int(bounded.environment["CHAMPION_PORT"]), timeout=60)
    idle.request("GET", "/health/live")
    idle.getresponse().read()
    kept = idle.sock
    with contextlib.suppress(ConnectionResetError):
        assert silent.recv(100) == b""
    idle.request("POST", PATH, rows(1), {"Content-Type": "application/json"})
    assert idle.getresponse().status == 200
    assert idle.sock is kept
