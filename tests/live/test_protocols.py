"""One pipeline under all protocols: the same row gives the same answer, event and error through each."""

import gzip
import io
import json
import struct
import urllib.request

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.live.wire import call

NATIVE = "/v1/deployments/spoken/predictions"


@pytest.fixture(scope="module")
def spoken(system, deployed, flights):
    """A deployment, its inputs, ten rows and what our own protocol answers."""
    system.api.post("/v1/deployments", {"name": "spoken", "model_id": deployed[0], "association_id": "flight_id"})
    meta = call(system, "GET", "/v2/models/spoken")[1]
    names = [i["name"] for i in meta["inputs"]]
    rows = [{n: row.get(n) for n in names} for row in flights.rows[:10]]
    status, answer, _ = call(system, "POST", NATIVE, json.dumps(rows).encode())
    assert status == 200
    return meta, rows, [(p["prediction"], p["probabilities"]) for p in answer["predictions"]]


def column(rows, item, binary=False):
    values = [row[item["name"]] for row in rows]
    found = {"name": item["name"], "datatype": item["datatype"], "shape": [len(rows), 1]}
    if not binary:
        return found | {"data": values}, b""
    if item["datatype"] == "BYTES":
        data = b"".join(struct.pack("<I", len(str(v).encode())) + str(v).encode() for v in values)
    else:
        data = np.array([np.nan if v is None else v for v in values], "<f8").tobytes()
    return found | {"parameters": {"binary_data_size": len(data)}}, data


def test_v2_columns_give_the_same_bits_as_our_own(system, spoken):
    meta, rows, expected = spoken
    status, answer, headers = call(system, "POST", "/v2/models/spoken/infer", json.dumps({"id": "42", "inputs": [column(rows, i)[0] for i in meta["inputs"]]}).encode())
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("spoken", "1", "42")
    outputs = {o["name"]: o for o in answer["outputs"]}
    assert outputs["predict"]["data"] == [p for p, _ in expected]
    labels = outputs["predict_proba"]["parameters"]["labels"]
    assert outputs["predict_proba"]["data"] == [p[label] for _, p in expected for label in labels]
    assert outputs["predict_proba"]["shape"] == [10, 2]
    assert headers["X-Request-ID"] == answer["parameters"]["request_id"]


def test_v2_binary_in_and_out(system, spoken):
    meta, rows, expected = spoken
    columns = [column(rows, i, binary=True) for i in meta["inputs"]]
    head = json.dumps({"inputs": [c for c, _ in columns], "outputs": [{"name": "predict_proba", "parameters": {"binary_data": True}}, {"name": "predict"}]}).encode()
    body = head + b"".join(d for _, d in columns)
    status, raw, headers = call(system, "POST", "/v2/models/spoken/versions/1/infer", body, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}, parse=False)
    assert status == 200
    length = int(headers["Inference-Header-Content-Length"])
    answer = json.loads(raw[:length])
    proba, predict = answer["outputs"]
    assert proba["parameters"]["binary_data_size"] == len(raw) - length == 160
    labels = proba["parameters"]["labels"]
    assert np.frombuffer(raw[length:], "<f8").tolist() == [p[label] for _, p in expected for label in labels]
    assert predict["data"] == [p for p, _ in expected]


def test_v2_association_ids_and_times_reach_the_log(system, spoken):
    meta, rows, _ = spoken
    ids = [f"v2-{k}" for k in range(10)]
    inputs = [column(rows, i)[0] for i in meta["inputs"]] + [{"name": "association_id", "datatype": "BYTES", "shape": [10], "data": ids}]
    status, answer, _ = call(system, "POST", "/v2/models/spoken/infer", json.dumps({"inputs": inputs, "parameters": {"timestamps": ["2013-07-04T00:00:00Z"] * 10}}).encode())
    assert status == 200, answer
    system.api.get("/v1/deployments/spoken", after=answer["parameters"]["position"])
    found = system.sql("SELECT association_id, toString(occurred_at) AS at FROM predictions WHERE deployment = 'spoken' AND startsWith(association_id, 'v2-') ORDER BY association_id")
    assert [r["association_id"] for r in found] == ids
    assert {r["at"] for r in found} == {"2013-07-04 00:00:00.000000"}


@pytest.mark.parametrize("said", ["", True], ids=["plain", "with a truth value elsewhere"])
@pytest.mark.parametrize("odd", [9.5, True, None, "9", "nine", [9.0], 1 << 60, -(1 << 63)], ids=str)
def test_a_long_tensor_with_one_odd_value_is_read_as_rows_are(system, spoken, odd, said):
    meta, rows, _ = spoken
    rows = [*rows, *rows]
    rows[11] = {**rows[11], "hour": odd}
    body = json.dumps({"inputs": [column(rows, i)[0] for i in meta["inputs"]], "parameters": {"more": said}}).encode()
    own = call(system, "POST", NATIVE, json.dumps([{**row, "hour": 9.0} if row["hour"] == [9.0] else row for row in rows]).encode())[1]["predictions"]
    status, answer, _ = call(system, "POST", "/v2/models/spoken/infer", body)
    assert status == 200, answer
    proba = next(o for o in answer["outputs"] if o["name"] == "predict_proba")
    assert proba["data"] == [(p.get("probabilities") or {}).get(label) for p in own for label in proba["parameters"]["labels"]]
    assert json.loads(answer["parameters"].get("errors", "{}")) == {str(p["row"]): p["error"] for p in own if "error" in p}


@pytest.mark.parametrize(("timeout", "status"), [(10_000_000, 200), (0, 200), (1, 504), (-1, 400), (1.5, 400), ("1", 400)])
def test_v2_timeout_is_a_deadline_in_microseconds(system, spoken, timeout, status):
    meta, rows, _ = spoken
    body = {"inputs": [column(rows[:1], i)[0] for i in meta["inputs"]], "parameters": {"timeout": timeout}}
    got, answer, _ = call(system, "POST", "/v2/models/spoken/infer", json.dumps(body).encode())
    assert got == status, answer
    assert status == 200 or isinstance(answer["error"], str)


def test_null_and_nan_are_missing_in_every_protocol(system, spoken):
    meta, rows, _ = spoken
    numeric = next(i for i in meta["inputs"] if i["datatype"] == "FP64")
    bare = {**rows[0], numeric["name"]: None}
    expected = call(system, "POST", NATIVE, json.dumps([bare]).encode())[1]["predictions"][0]["probabilities"]
    got = []
    got.append(call(system, "POST", "/v2/models/spoken/infer", json.dumps({"inputs": [column([bare], i)[0] for i in meta["inputs"]]}).encode())[1]["outputs"][1]["data"])
    columns = [column([bare], i, binary=True) for i in meta["inputs"]]
    head = json.dumps({"inputs": [c for c, _ in columns]}).encode()
    got.append(call(system, "POST", "/v2/models/spoken/infer", head + b"".join(d for _, d in columns), {"Inference-Header-Content-Length": str(len(head))})[1]["outputs"][1]["data"])
    want = {"params": {"predict_method": "predict_proba"}}
    names = [i["name"] for i in meta["inputs"]]
    for body in ({"dataframe_records": [bare]}, {"dataframe_split": {"columns": names, "data": [[bare[n] for n in names]]}}, {"instances": [bare]}, {"instances": [[bare[n] for n in names]]}, {"inputs": {n: [bare[n]] for n in names}}):
        status, answer, _ = call(system, "POST", "/v1/deployments/spoken/invocations", json.dumps({**body, **want}).encode())
        assert status == 200, answer
        got.append(answer["predictions"][0])
    labels = call(system, "GET", "/v2/models/spoken")[1]["outputs"][1]["parameters"]["labels"]
    assert all(g == [expected[label] for label in labels] for g in got)


def test_mlflow_csv_and_parquet_agree_with_json(system, spoken):
    meta, rows, expected = spoken
    names = [i["name"] for i in meta["inputs"]]
    text = "\n".join([",".join(names), *(",".join("" if r[n] is None else str(r[n]) for n in names) for r in rows)]).encode()
    table = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), table)
    for body, kind in ((text, "text/csv"), (text, "text/csv; charset=utf-8"), (table.getvalue(), "application/vnd.apache.parquet")):
        status, answer, _ = call(system, "POST", "/v1/deployments/spoken/invocations", body, {"Content-Type": kind})
        assert (status, answer["predictions"]) == (200, [p for p, _ in expected])
    assert call(system, "GET", "/v1/deployments/spoken/ping", parse=False)[:2] == (200, b"\n")


def test_kserve_v1(system, spoken):
    _, rows, expected = spoken
    status, answer, _ = call(system, "POST", "/v1/models/spoken:predict", json.dumps({"instances": rows}).encode())
    assert (status, answer["predictions"]) == (200, [p for p, _ in expected])
    assert call(system, "GET", "/v1/models/spoken")[1] == {"name": "spoken", "ready": True}
    assert "spoken" in call(system, "GET", "/v1/models")[1]["models"]
    assert call(system, "GET", "/", headers={"Accept": "application/json"})[1] == {"status": "alive"}


def test_datarobot_names(system, spoken):
    _, rows, expected = spoken
    status, answer, headers = call(system, "POST", "/predApi/v1.0/deployments/spoken/predictions?passthroughColumns=carrier", json.dumps(rows).encode())
    assert status == 200
    assert [(r["rowId"], r["prediction"], {v["label"]: v["value"] for v in r["predictionValues"]}, r["passthroughValues"]) for r in answer["data"]] == [
        (k, p, q, {"carrier": row["carrier"]}) for k, ((p, q), row) in enumerate(zip(expected, rows, strict=True))
    ]
    assert int(headers["X-DataRobot-Execution-Time"]) >= 0
    body = json.dumps({"data": [{"associationId": "v2-0", "actualValue": True}, {"associationId": "v2-1"}]}).encode()
    status, answer, _ = call(system, "POST", "/api/v2/deployments/spoken/actuals/fromJSON/", body)
    assert (status, answer["accepted"], answer["rejected_count"]) == (202, 1, 1)


def test_every_protocol_makes_the_same_rows_in_the_log(system, spoken):
    meta, rows, _ = spoken
    bodies = {
        NATIVE: rows[:1],
        "/v2/models/spoken/infer": {"inputs": [column(rows[:1], i)[0] for i in meta["inputs"]]},
        "/v1/deployments/spoken/invocations": {"instances": rows[:1]},
        "/v1/models/spoken:predict": {"instances": rows[:1]},
        "/predApi/v1.0/deployments/spoken/predictions": rows[:1],
    }
    requests = [call(system, "POST", path, json.dumps(body).encode())[2]["X-Request-ID"] for path, body in bodies.items()]
    last = call(system, "POST", NATIVE, json.dumps(rows[:1]).encode())[1]["position"]
    system.api.get("/v1/deployments/spoken", after=last)
    listed = ", ".join(f"'{r}'" for r in requests)
    found = system.sql(f"SELECT count() AS n, uniqExact(features) AS f, uniqExact(probabilities) AS p, uniqExact(predicted_class) AS c FROM predictions WHERE request_id IN ({listed})")
    assert found == [{"n": 5, "f": 1, "p": 1, "c": 1}]


def test_gzip_in_and_out(system, spoken):
    _, rows, expected = spoken
    body = gzip.compress(json.dumps(rows * 30).encode())
    request = urllib.request.Request(f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}{NATIVE}", data=body, headers={"Content-Type": "application/json", "Content-Encoding": "gzip", "Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert json.loads(gzip.decompress(answer.read()))["predictions"][9]["prediction"] == expected[9][0]


def one(meta, row, **change):
    return {"inputs": [column([row], i)[0] | change.get(i["name"], {}) for i in meta["inputs"]]}


BAD_V2 = [
    (lambda m, r: b"{", {}, "JSON"),
    (lambda m, r: b"[]", {}, "object"),
    (lambda m, r: json.dumps({}).encode(), {}, "inputs"),
    (lambda m, r: json.dumps({"inputs": [7]}).encode(), {}, "inputs"),
    (lambda m, r: json.dumps({"inputs": [{"shape": [1], "datatype": "FP64", "data": [1]}]}).encode(), {}, "name"),
    (lambda m, r: json.dumps({"inputs": [{"name": "hour", "shape": [-1], "datatype": "FP64", "data": [1]}]}).encode(), {}, "shape"),
    (lambda m, r: json.dumps({"inputs": [{"name": "hour", "shape": [2], "datatype": "FP64", "data": [1]}]}).encode(), {}, "values"),
    (lambda m, r: json.dumps({"inputs": [{"name": "hour", "shape": [1], "datatype": "FP65", "data": [1]}]}).encode(), {}, "datatype"),
    (lambda m, r: json.dumps({"inputs": [{"name": "t", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}]}).encode(), {}, "shape"),
    (lambda m, r: json.dumps({"inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": [1]}, {"name": "b", "shape": [2], "datatype": "FP64", "data": [1, 2]}]}).encode(), {}, "rows"),
    (lambda m, r: json.dumps({**one(m, r), "outputs": [{"name": "nothing"}]}).encode(), {}, "output"),
    (lambda m, r: json.dumps(one(m, r)).encode(), {"Inference-Header-Content-Length": "999999"}, "bytes"),
    (lambda m, r: json.dumps(one(m, r)).encode(), {"Inference-Header-Content-Length": "-1"}, "bytes"),
    (lambda m, r: json.dumps(one(m, r)).encode() + b"xx", {"Inference-Header-Content-Length": "LEN"}, "left over"),
    (lambda m, r: json.dumps({"inputs": [{"name": "hour", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}]}).encode(), {}, "claims"),
    (lambda m, r: json.dumps({"inputs": [{"name": "carrier", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 3}}]}).encode() + b"abc", {"Inference-Header-Content-Length": "LEN-3"}, "length"),
]


@pytest.mark.parametrize(("make", "headers", "word"), BAD_V2)
def test_a_v2_request_that_cannot_be_read_is_400_in_its_shape(system, spoken, make, headers, word):
    meta, rows, _ = spoken
    body = make(meta, rows[0])
    whole = len(body) - (2 if word == "left over" else 0)
    headers = {k: str(whole if v == "LEN" else len(body) - 3 if v == "LEN-3" else v) for k, v in headers.items()}
    status, answer, _ = call(system, "POST", "/v2/models/spoken/infer", body, headers)
    assert status == 400, answer
    assert isinstance(answer["error"], str)
    assert word in answer["error"]


BAD_MLFLOW = [
    (b"[]", "application/json", 400),
    (b"{", "application/json", 400),
    (b"{}", "application/json", 400),
    (b'{"instances": [], "inputs": []}', "application/json", 400),
    (b'{"instances": [[1]], "more": 1}', "application/json", 400),
    (b'{"instances": [[1]]}', "application/json", 400),
    (b'{"instances": [1, {}]}', "application/json", 400),
    (b'{"dataframe_split": []}', "application/json", 400),
    (b'{"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}', "application/json", 400),
    (b'{"inputs": {"a": [1], "b": [1, 2]}}', "application/json", 400),
    (b'{"dataframe_records": [{}], "params": 5}', "application/json", 400),
    (b"PAR1", "application/vnd.apache.parquet", 400),
    (b"x", "application/x-thing", 415),
    (b"{}", "application/json; charset=latin-1", 415),
]


@pytest.mark.parametrize(("body", "kind", "status"), BAD_MLFLOW)
def test_an_mlflow_request_that_cannot_be_read_says_why(system, spoken, body, kind, status):
    got, answer, _ = call(system, "POST", "/v1/deployments/spoken/invocations", body, {"Content-Type": kind})
    assert got == status, answer
    assert answer["error"] == answer["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nowhere", 404),
        ("GET", "/v2/models/nowhere/ready", 404),
        ("POST", "/v2/models/nowhere/infer", 404),
        ("POST", "/v2/models/spoken/versions/77/infer", 404),
        ("GET", "/v2/models/spoken/versions/77", 404),
        ("GET", "/v2/models/spoken/config", 404),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/v2", 200),
        ("POST", "/v2/repository/index", 200),
    ],
)
def test_the_protocols_own_paths(system, spoken, method, path, status):
    meta, rows, _ = spoken
    got, answer, _ = call(system, method, path, json.dumps(one(meta, rows[0])).encode() if path.endswith("infer") else b"" if method == "POST" else None)
    assert got == status, answer
    if status == 404:
        assert isinstance(answer["error"], str)
