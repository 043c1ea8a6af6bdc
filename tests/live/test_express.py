"""The express lane answers as aiohttp's does, whatever way the bytes come in."""

import http.client
import json
import random
import re
import socket
import struct
import time

import numpy as np
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


def tensors(rows, *, binary):
    """Rows as Open Inference V2 has them; the body, and the lines of its head."""
    inputs, tail = [], b""
    for name in ("hour", "carrier", "distance"):
        values = [row.get(name) for row in rows]
        one = {"name": name, "shape": [len(rows), 1], "datatype": "BYTES" if name == "carrier" else "FP64"}
        if binary:
            texts = [v.encode() for v in values] if name == "carrier" else []
            packed = b"".join(struct.pack("<I", len(t)) + t for t in texts) or np.array([np.nan if v is None else v for v in values], dtype=float).tobytes()
            one["parameters"] = {"binary_data_size": len(packed)}
            tail += packed
        else:
            one["data"] = values
        inputs.append(one)
    head = json.dumps({"id": "mine", "inputs": inputs, "parameters": {"binary_data_output": binary}}).encode()
    return head + tail, [f"Inference-Header-Content-Length: {len(head)}"] if binary else []


def exchanged(system, whole):
    """Head and body of one answer."""
    with socket.create_connection(("127.0.0.1", int(system.environment["CHAMPION_PORT"])), timeout=20) as connection:
        connection.sendall(whole)
        found = b""
        while b"\r\n\r\n" not in found:
            found += connection.recv(1 << 16)
        head, _, body = found.partition(b"\r\n\r\n")
        while len(body) < int(re.search(rb"(?i)content-length: (\d+)", head.replace(b"Header-Content-Length", b""))[1]):
            body += connection.recv(1 << 16)
    return head, body


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("count", [1, 3, 9, 200, 1001])
def test_open_inference_is_answered_alike_in_both_lanes_and_as_our_own_protocol(system, count, binary):
    rng = random.Random(count)
    rows = [{"hour": rng.choice([8, 9.5, None]), "carrier": rng.choice(["UA", "B6", "unheard", "Ünal"]), "distance": rng.randrange(2000)} for _ in range(count)]
    body, lines = tensors(rows, binary=binary)
    kind = "application/octet-stream" if binary else "application/json"
    path = "/v2/models/lane/infer"
    (express, fast), (slow, same) = exchanged(system, request(body, path, *lines, kind=kind)), exchanged(system, request(body, path + "?strict=false", *lines, kind=kind))
    assert (b"Server:" in slow, b"Server:" in express) == (True, count > 1000)

    def read(head, answer):
        length = re.search(rb"(?i)inference-header-content-length: (\d+)", head)
        document = json.loads(answer[: int(length[1])] if length else answer)
        assert bool(length) == binary
        document["parameters"] = {k: v for k, v in document["parameters"].items() if k not in {"request_id", "position"}}
        return document, answer[int(length[1]) :] if length else b""

    assert read(express, fast) == read(slow, same)
    own = system.api.post("/v1/deployments/lane/predictions", {"rows": rows})["predictions"]
    document, tail = read(express, fast)
    assert (document["id"], document["parameters"]["recorded"]) == ("mine", True)
    labels = document["outputs"][1]["parameters"]["labels"]
    wanted = [[p["probabilities"][label] for label in labels] for p in own]
    got = np.frombuffer(tail[-count * 16 :]).reshape(count, 2).tolist() if binary else np.array(document["outputs"][1]["data"]).reshape(count, 2).tolist()
    assert got == wanted
    if not binary:
        assert document["outputs"][0]["data"] == [p["prediction"] for p in own]
    position = json.loads(fast[: int(re.search(rb"(?i)inference-header-content-length: (\d+)", express)[1])] if binary else fast)["parameters"]
    system.api.get("/v1/deployments/lane", after=position["position"])
    stored = system.sql(f"SELECT features_num, features_cat FROM predictions WHERE request_id = '{position['request_id']}' ORDER BY toUInt32(splitByChar('.', event_id)[-1])")
    assert [{**r["features_num"], **r["features_cat"]} for r in stored] == [{k: v for k, v in row.items() if v is not None} for row in rows]


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


@pytest.mark.parametrize("seed", range(4))
def test_heads_that_come_again_are_answered_as_new_ones_whatever_comes_between(system, peer, seed):
    rng = random.Random(seed)
    bodies = [json.dumps({"rows": [{**ROW, "hour": hour}]}).encode() for hour in (7, 8, 9)]  # of one length: one head
    other = json.dumps({"rows": [{**ROW, "hour": 17}]}).encode()
    asked = []
    for _ in range(60):
        kind = rng.choice(["same", "same", "same", "longer", "split", "two", "broken", "named", "unknown", "elsewhere"])
        if kind == "same":
            asked.append((peer.send(request(body := rng.choice(bodies))), peer.answer(), body))
        elif kind == "longer":
            asked.append((peer.send(request(other)), peer.answer(), other))
        elif kind == "split":
            body = rng.choice(bodies)
            whole = request(body)
            cut = rng.randrange(1, len(whole))
            peer.send(whole[:cut], whole[cut:])
            asked.append((None, peer.answer(), body))
        elif kind == "two":
            one, two = rng.choices(bodies, k=2)
            peer.send(request(one) + request(two))
            asked += [(None, peer.answer(), one), (None, peer.answer(), two)]
        elif kind == "broken":
            peer.send(request(b"x" * len(bodies[0])))  # a head that came before, and no JSON
            status, _, body = peer.answer()
            assert (status, body["error"]["code"]) == (400, "broken_json")
        elif kind == "named":
            body = rng.choice(bodies)
            peer.send(request(body, "/v1/deployments/lane/predictions", f"X-Request-ID: again-{seed}"))
            found = peer.answer()
            assert found[2]["request_id"] == f"again-{seed}"
            asked.append((None, found, body))
        elif kind == "unknown":
            peer.send(request(rng.choice(bodies), "/v1/deployments/nowhere/predictions"))
            assert peer.answer()[0] == 404
        else:
            peer.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.answer()[2] == {"live": True}
    expected = {}
    for body in (*bodies, other):
        by_aiohttp = Peer(system)
        by_aiohttp.send(request(body, "/v1/deployments/lane/predictions?strict=false"))
        expected[body] = plain(by_aiohttp.answer())
        by_aiohttp.socket.close()
    assert len(asked) > 20
    for _, answer, body in asked:
        assert plain(answer) == expected[body]
    ids = [a[2]["request_id"] for _, a, _ in asked if not a[2]["request_id"].startswith("again")]
    assert len(set(ids)) == len(ids), "each request has an id of its own"


def test_a_deployment_that_is_paused_or_changed_answers_so_at_once_on_a_connection_that_asked_before(system, peer):
    body = json.dumps({"rows": [ROW]}).encode()
    system.api.post("/v1/deployments", {"name": "moody", "model_id": system.api.get("/v1/deployments/lane")["champion"]["model_id"]})
    for _ in range(2):
        peer.send(request(body, "/v1/deployments/moody/predictions"))
        assert peer.answer()[2]["deployment_version"] == 1
    system.api.call("PATCH", "/v1/deployments/moody", {"threshold": 0.9})
    peer.send(request(body, "/v1/deployments/moody/predictions"))
    assert peer.answer()[2]["deployment_version"] == 2
    system.api.call("PATCH", "/v1/deployments/moody", {"state": "pause"})
    peer.send(request(body, "/v1/deployments/moody/predictions"))
    assert peer.answer()[0] == 409
