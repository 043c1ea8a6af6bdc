"""The express lane answers as aiohttp's does, whatever way the bytes come in."""

import http.client
import json
import re
import socket
import time

import pytest

ROW = {"hour": 8, "carrier": "UA", "distance": 1400}


@pytest.fixture(scope="module", autouse=True)
def lane(system, deployed):
    system.api.post("/v1/deployments", {"name": "lane", "model_id": deployed[0], "association_id": "flight_id"})


def request(body, path="/v1/deployments/lane/predictions", *lines, kind="application/json"):
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


class Peer:
    """A raw connection."""

    def __init__(self, system):
        self.socket = socket.create_connection(("127.0.0.1", int(system.environment["CHAMPION_PORT"])), timeout=20)
        self.rest = b""

    def send(self, *parts, pause=0.05):
        for part in parts:
            self.socket.sendall(part)
            time.sleep(pause if len(parts) > 1 else 0)

    def answer(self):
        while b"\r\n\r\n" not in self.rest:
            got = self.socket.recv(1 << 16)
            assert got, "closed"
            self.rest += got
        head, _, rest = self.rest.partition(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
        while len(rest) < length:
            rest += self.socket.recv(1 << 16)
        self.rest = rest[length:]
        return int(head.split()[1]), head, json.loads(rest[:length])


@pytest.fixture
def peer(system):
    found = Peer(system)
    yield found
    found.socket.close()


def plain(answer):
    """What must not depend on the lane."""
    status, _, body = answer
    predictions = [{k: v for k, v in p.items() if k != "association_id"} for p in body["predictions"]]
    return status, body["model_id"], body["deployment_version"], body["recorded"], predictions


def test_both_lanes_give_the_same_bits(peer):
    body = json.dumps({"rows": [ROW, {"hour": "9", "carrier": 5, "unheard": 1}, {}]}).encode()
    peer.send(request(body))
    express = peer.answer()
    peer.send(request(body, "/v1/deployments/lane/predictions?strict=false"))  # a query is for aiohttp
    slow = peer.answer()
    assert plain(express) == plain(slow)
    assert express[0] == 200
    assert b"Server:" in slow[1]
    assert b"Server:" not in express[1]  # so each went the way it should


def test_a_request_in_pieces_is_answered_and_the_connection_goes_on(peer):
    whole = request(json.dumps([ROW]).encode())
    for cut in (5, 40, 110, len(whole) - 3):
        peer.send(whole[:cut], whole[cut:])
        assert peer.answer()[0] == 200
    peer.send(*(whole[k : k + 1] for k in range(len(whole))), pause=0.0005)
    assert peer.answer()[0] == 200


def test_a_body_that_never_ends_goes_to_aiohttp_and_what_follows_too(peer):
    whole = request(json.dumps([ROW]).encode())
    peer.send(whole[:-4])
    time.sleep(2.5)  # past the lane's patience
    peer.send(whole[-4:])
    assert peer.answer()[0] == 200
    peer.send(whole)
    assert peer.answer()[0] == 200


def test_pipelined_requests_are_answered_in_their_order(peer):
    ids = [f"pipe-{k}" for k in range(5)]
    peer.send(b"".join(request(json.dumps([ROW]).encode(), "/v1/deployments/lane/predictions", f"X-Request-ID: {i}") for i in ids))
    assert [peer.answer()[2]["request_id"] for _ in ids] == ids
    whole = request(json.dumps([ROW]).encode())
    peer.send(whole + whole[:20], whole[20:])
    assert [peer.answer()[0] for _ in range(2)] == [200, 200]


def test_other_requests_between_predictions_keep_their_place(peer):
    for _ in range(3):
        peer.send(request(json.dumps([ROW]).encode()))
        assert peer.answer()[0] == 200
        peer.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.answer()[2] == {"live": True}
    peer.send(b"GET /v1/deployments/lane/drift HTTP/1.1\r\nHost: x\r\n\r\n" + request(json.dumps([ROW]).encode()))
    assert "totals" in peer.answer()[2]
    assert "predictions" in peer.answer()[2]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"{broken"), 400),
        (request(b'{"rows": []}'), 422),
        (request(b"[{}]", "/v1/deployments/nowhere/predictions"), 404),
        (request(b"[{}]", "/v1/deployments/lane/predictions", "Expect: 100-continue"), 100),
        (request(b"hour\n8\n", kind="text/csv"), 200),
        (request(b"[{}]", "/v1/deployments/lane/predictions", "X-Request-ID: " + "x" * 300), 200),
        (b"POST /v1/deployments/lane/predictions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n4\r\n[{}]\r\n0\r\n\r\n", 200),
    ],
)
def test_whatever_is_not_plain_is_answered_by_aiohttp(peer, sent, status):
    peer.send(sent)
    first = peer.socket.recv(1 << 16)
    assert int(first.split()[1]) == status


def test_two_lengths_are_refused(peer):
    peer.send(request(b"[{}]", "/v1/deployments/lane/predictions", "Content-Length: 2"))
    assert int(peer.socket.recv(1 << 16).split()[1]) == 400


def test_closing_is_asked_and_done(system):
    connection = http.client.HTTPConnection("127.0.0.1", int(system.environment["CHAMPION_PORT"]), timeout=10)
    connection.request("POST", "/v1/deployments/lane/predictions", json.dumps([ROW]), {"Content-Type": "application/json", "Connection": "close"})
    answer = connection.getresponse()
    assert answer.status == 200
    answer.read()
    assert connection.sock is None


def test_every_row_of_both_lanes_is_in_the_log_once(system, peer):
    ids = [f"lane-{k}" for k in range(40)]
    for k, association in enumerate(ids):
        path = "/v1/deployments/lane/predictions" + ("?strict=false" if k % 2 else "")
        peer.send(request(json.dumps({"rows": [ROW], "association_ids": [association]}).encode(), path))
        position = peer.answer()[2]["position"]
    system.api.get("/v1/deployments/lane", after=position)
    rows = system.sql("SELECT association_id, count() AS n FROM predictions WHERE deployment = 'lane' AND association_id LIKE 'lane-%' GROUP BY 1")
    assert {r["association_id"]: r["n"] for r in rows} == dict.fromkeys(ids, 1)
