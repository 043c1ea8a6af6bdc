"""Whatever is wrong with a request has a typed answer in the one shape, and loses nothing else."""

import json
import urllib.request

import pytest

from gateway.client import Client, Refusal


@pytest.fixture(scope="module", autouse=True)
def sandbox(system, deployed):
    """A deployment whose numbers nobody counts."""
    system.api.post("/v1/deployments", {"name": "sandbox", "model_id": deployed[0], "association_id": "flight_id"})


def raw(system, method, path, body=b"", kind="application/json", **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}{path}", data=body, method=method, headers={"Content-Type": kind, **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read()), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers


def error_of(answer):
    status, body, _ = answer
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "details"}
    return status, body["error"]["code"]


PREDICT = "/v1/deployments/sandbox/predictions"


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"{broken", "application/json", (400, "broken_json")),
        (b"", "application/json", (400, "broken_json")),
        (b'"text"', "application/json", (422, "wrong_type")),
        (b'{"rows": 5}', "application/json", (422, "wrong_type")),
        (b'{"rows": []}', "application/json", (422, "no_rows")),
        (b"[]", "application/json", (422, "no_rows")),
        (b'{"rows": [{"hour": "noon"}]}', "application/json", (422, "wrong_type")),
        (b'{"rows": [7]}', "application/json", (422, "wrong_type")),
        (b'{"rows": [{}], "association_ids": []}', "application/json", (422, "wrong_length")),
        (b'{"rows": [{}], "association_ids": [""]}', "application/json", (422, "wrong_type")),
        (b'{"rows": [{}], "timestamps": ["yesterday"]}', "application/json", (422, "wrong_time")),
        (b'{"rows": [{"hour": NaN}]}', "application/json", (400, "broken_json")),
        (b'{"rows": [{}], "timestamps": [1e13]}', "application/json", (422, "wrong_time")),
        (b'{"rows": [{}], "timestamps": ["1066-10-14"]}', "application/json", (422, "wrong_time")),
        (b'{"rows": [7, "x"], "timestamps": [1, 2]}', "application/json", (422, "wrong_type")),
        (b"hour,hour\n1,2\n", "text/csv", (422, "duplicate_columns")),
        (b"", "text/csv", (422, "broken_csv")),
    ],
)
def test_a_prediction_request_that_cannot_be_read_says_why(system, deployed, body, kind, expected):
    assert error_of(raw(system, "POST", PREDICT, body, kind)) == expected


def test_one_bad_row_does_not_spoil_the_others(system, deployed):
    rows = [{"hour": 9, "carrier": "UA"}, {"hour": "noon"}, {"hour": None, "carrier": "??", "unheard": 1}, {}]
    status, body, _ = raw(system, "POST", PREDICT, json.dumps({"rows": rows}).encode())
    found = body["predictions"]
    assert status == 200
    assert [("error" in p, "prediction" in p) for p in found] == [(False, True), (True, False), (False, True), (False, True)]
    assert "wrong_type" in found[1]["error"]
    notes = " ".join(found[2]["warnings"])
    assert "missing_feature: hour" in notes
    assert "unseen_category: carrier" in notes
    assert "unknown_feature: unheard" in notes
    end = system.api.get("/v1/deployments/sandbox", after=body["position"])
    assert end["name"] == "sandbox"
    assert len(system.api.get(f"/v1/predictions/{body['request_id']}")["predictions"]) >= 3


def test_strict_refuses_a_feature_it_does_not_know(system, deployed):
    status, code = error_of(raw(system, "POST", PREDICT + "?strict=true", b'{"rows": [{"hour": 9}, {"unheard": 1}]}'))
    assert (status, code) == (422, "unknown_feature")


def test_a_request_of_a_hundred_thousand_rows_is_answered_in_order(system, deployed):
    system.api.post("/v1/deployments", {"name": "large", "model_id": deployed[-1]})
    rows = [{"hour": k % 24, "distance": k} for k in range(100_000)]
    answer = system.api.post("/v1/deployments/large/predictions", rows)
    assert [p["row"] for p in answer["predictions"]] == list(range(100_000))
    system.api.get("/v1/deployments/large", after=answer["position"])
    stored = system.sql("SELECT count() AS n, uniqExact(event_id) AS u, max(features_num['distance']) AS last FROM predictions WHERE deployment = 'large'")
    assert stored == [{"n": 100_000, "u": 100_000, "last": 99_999}]


def test_csv_and_json_give_the_same_predictions(system, deployed, flights):
    rows = flights.rows[:20]
    names = ["hour", "carrier", "origin", "dest", "distance", "minute", "sched_dep_time", "sched_arr_time", "flight"]
    csv = "\n".join([",".join(names), *(",".join(str(r[n]) for n in names) for r in rows)])
    a = raw(system, "POST", PREDICT, csv.encode(), "text/csv")[1]["predictions"]
    b = raw(system, "POST", PREDICT, json.dumps([{n: r[n] for n in names} for r in rows]).encode())[1]["predictions"]
    assert [p["probabilities"] for p in a] == [p["probabilities"] for p in b]


def test_the_same_idempotency_key_is_the_same_write(system, deployed):
    body = b'{"rows": [{"hour": 3}]}'
    first = raw(system, "POST", PREDICT, body, **{"Idempotency-Key": "k1"})[1]
    again = raw(system, "POST", PREDICT, body, **{"Idempotency-Key": "k1"})[1]
    assert first == again
    created = [raw(system, "POST", "/v1/deployments", json.dumps({"name": "twice", "model_id": deployed[0]}).encode(), **{"Idempotency-Key": "k2"})[0] for _ in range(2)]
    assert created == [201, 201]


def test_a_retried_job_is_the_same_job(system, deployed):
    body = json.dumps({"model_id": deployed[1], "from": "2013-01-01", "to": "2013-01-02"}).encode()
    ids = {raw(system, "POST", "/v1/deployments/sandbox/replays", body, **{"Idempotency-Key": "r1"})[1]["replay_id"] for _ in range(2)}
    assert len(ids) == 1


def test_an_empty_cell_of_a_csv_is_no_retraction(system, deployed):
    answer = raw(system, "POST", "/v1/deployments/sandbox/actuals", b"association_id,actual\nz1,true\nz2,\n", "text/csv")
    assert (answer[0], answer[1]["accepted"], answer[1]["rejected"][0]["row"]) == (202, 1, 1)


def test_the_request_id_is_taken_or_made_and_returned(system, deployed):
    _, body, headers = raw(system, "POST", PREDICT, b'[{"hour": 1}]', **{"X-Request-ID": "mine-1"})
    assert body["request_id"] == headers["X-Request-ID"] == "mine-1"
    assert raw(system, "POST", PREDICT, b"{", **{"X-Request-ID": "mine-2"})[2]["X-Request-ID"] == "mine-2"
    assert raw(system, "POST", PREDICT, b'[{"hour": 1}]', **{"X-Request-ID": "b\xe4d \xff"})[0] == 200
    assert raw(system, "GET", "/v1/models", b"", **{"X-Request-ID": "mine-3"})[2]["X-Request-ID"] == "mine-3"


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/v1/deployments/nope/predictions", b'[{"a": 1}]', (404, "unknown_deployment")),
        ("GET", "/v1/deployments/nope", b"", (404, "unknown_deployment")),
        ("GET", "/v1/deployments/nope/drift", b"", (404, "unknown_deployment")),
        ("GET", "/v1/projects/nope", b"", (404, "unknown_project")),
        ("GET", "/v1/models/0000000000", b"", (404, "unknown_model")),
        ("GET", "/nowhere", b"", (404, "unknown_path")),
        ("DELETE", "/v1/models", b"", (405, "wrong_method")),
        ("POST", "/v1/deployments", b"{}", (422, "missing_field")),
        ("POST", "/v1/deployments", b'{"name": "a b", "model_id": "x"}', (422, "wrong_name")),
        ("PUT", "/v1/deployments/sandbox/champion", b'{"model_id": "ffffffff", "reason": "x"}', (404, "unknown_model")),
        ("POST", "/v1/deployments/sandbox/challengers", b'{"model_id": ""}', (422, "missing_field")),
        ("POST", "/v1/deployments/sandbox/replays", b'{"model_id": "x", "from": "2013", "to": "x"}', (404, "unknown_model")),
        ("GET", "/v1/deployments/sandbox/drift?bucket=3s", b"", (422, "wrong_bucket")),
        ("GET", "/v1/deployments/sandbox/drift?from=soon", b"", (422, "wrong_time")),
        ("GET", "/v1/deployments/sandbox?after=nonsense", b"", (422, "wrong_position")),
        ("POST", "/v1/sql", b'{"query": "DROP TABLE predictions"}', (403, "not_read_only")),
        ("POST", "/v1/sql", b'{"query": "SELECT * FROM nowhere"}', (400, "query_rejected")),
        ("POST", "/v1/sql", b'{"query": "SELECT 1 INTO OUTFILE \'/tmp/x\'"}', (400, "query_rejected")),
        ("POST", "/v1/deployments/sandbox/actuals", b"{}", (422, "wrong_type")),
        ("POST", "/v1/deployments/sandbox/actuals", b'{"actuals": []}', (422, "no_rows")),
        ("POST", "/v1/projects", b'{"target": "y"}', (422, "missing_field")),
        ("POST", "/v1/projects", b'{"target": "y", "source": "file:///etc/passwd"}', (422, "unsupported_source")),
        ("POST", "/v1/deployments/sandbox/challengers", b'{"model_id": "MODEL", "fraction": "nan"}', (422, "wrong_fraction")),
        ("POST", "/v1/deployments/sandbox/retraining", b'{"cut_off": 1e300}', (422, "wrong_type")),
        ("GET", "/v1/events?limit=x", b"", (422, "wrong_cursor")),
    ],
)
def test_every_refusal_has_the_one_shape(system, deployed, method, path, body, expected):
    assert error_of(raw(system, method, path, body.replace(b"MODEL", deployed[1].encode()))) == expected


@pytest.mark.parametrize(
    ("csv", "target", "code"),
    [
        ("a,b\n1,2\n", "y", "no_target"),
        ("", "y", "empty_file"),
        ("a,y\n", "y", "empty_file"),
        ("a,y\n" + "".join(f"{k}.5,1\n" for k in range(50)), "y", "constant_target"),
        ("a,a,y\n1,2,3\n", "y", "duplicate_columns"),
        ("a,y\n1.5,0\n2.5,1\n", "y", "too_few_rows"),
    ],
)
def test_a_file_that_cannot_be_learnt_from_fails_its_project_with_the_reason(system, tmp_path, csv, target, code):
    file = tmp_path / "data.csv"
    file.write_text(csv)
    project = system.api.wait_for_project(system.api.create_project(file, target))
    assert project["state"] == "failed"
    assert project["error"]["code"] == code


@pytest.mark.timeout(600)
def test_a_file_of_five_hundred_megabytes_is_taken_while_others_are_answered(system, deployed, tmp_path):
    file = tmp_path / "large.csv"
    with file.open("w") as out:
        out.write("x,note,y\n")
        pad = "word " * 2000
        for k in range(50_000):
            out.write(f"{k * 7919 % 1000}.5,{k}{pad},{(k * 7919 % 1000 > 500) != (k % 3 == 0):d}\n")
    assert file.stat().st_size > 500_000_000
    patient = Client(f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}", timeout=170)  # half a gigabyte, on a disk and two cores that others use
    project = patient.create_project(file, "y", minutes=0.01)
    assert system.api.post(PREDICT, [{"hour": 1}])["predictions"]
    found = system.api.wait_for_project(project)
    assert found["state"] == "completed", found
    kinds = {f["name"]: f["kind"] for f in system.api.get(f"/v1/projects/{project}/features")["features"]}
    assert kinds == {"x": "numeric", "note": "text"}


def test_an_option_nobody_knows_is_refused(system, tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("a,y\n1,2\n")
    with pytest.raises(Refusal) as found:
        system.api.create_project(file, "y", colour="red")
    assert found.value.code == "unknown_option"


def test_an_actual_with_an_unknown_id_is_kept_and_joined_when_its_prediction_comes(system, deployed):
    body = {"actuals": [{"association_id": "from-the-future", "actual": True}]}
    system.api.post("/v1/deployments/twice/actuals", body)
    answer = system.api.post("/v1/deployments/twice/predictions", {"rows": [{"hour": 5}], "association_ids": ["from-the-future"]})
    system.api.get("/v1/deployments/twice", after=answer["position"])
    assert system.sql("SELECT actual_class FROM outcomes WHERE deployment = 'twice' AND association_id = 'from-the-future'") == [{"actual_class": "true"}]


def test_a_paused_deployment_answers_no_more_until_it_is_resumed(system, deployed):
    system.api.call("PATCH", "/v1/deployments/twice", {"state": "pause"})
    with pytest.raises(Refusal) as found:
        system.api.post("/v1/deployments/twice/predictions", [{"hour": 1}])
    assert found.value.status == 409
    system.api.call("PATCH", "/v1/deployments/twice", {"state": "resume"})
    assert system.api.post("/v1/deployments/twice/predictions", [{"hour": 1}])["predictions"]


def test_openapi_describes_every_route_and_the_docs_name_it(system):
    paths = system.api.get("/openapi.json")["paths"]
    docs = system.api.text("/docs")
    assert "/v1/deployments/{d}/predictions" in paths
    assert all(path.split("{")[0] in docs for path in paths)
    assert "champion_requests_total" in system.api.text("/metrics")


def test_a_deployment_without_a_single_request_answers_every_question(system, deployed):
    system.api.post("/v1/deployments", {"name": "idle", "model_id": deployed[0]})
    assert system.api.get("/v1/deployments/idle")["status"] == {"health": "unknown", "drift": "unknown", "accuracy": "unknown"}
    for kind in ("service-health", "drift", "accuracy", "comparison", "humility"):
        assert system.api.get(f"/v1/deployments/idle/{kind}")["buckets" if kind != "comparison" else "challengers"] == []
    assert "No prediction has been made yet" in system.api.text("/deployments/idle")
