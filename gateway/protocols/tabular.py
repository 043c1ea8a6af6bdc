"""MLflow's scoring shapes, KServe V1's instances, and DataRobot's names for predictions."""

from __future__ import annotations

import datetime as dt
import decimal
import io
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet
from aiohttp import web

from gateway.asked import Asked
from gateway.errors import ApiError
from gateway.protocols.native import csv_rows, decode_json, json_object, texts
from gateway.protocols.run import Given

SHAPES = ("dataframe_split", "dataframe_records", "instances", "inputs")
PARQUET = "application/vnd.apache.parquet"


def decode_mlflow(given: Given) -> Asked:
    """JSON in one of MLflow's four shapes, CSV, or Parquet."""
    kind = given.request.content_type
    charset = given.request.charset
    if charset is not None and charset.lower() != "utf-8":
        raise ApiError(415, "wrong_charset", f"the charset must be utf-8, not {charset}")
    if kind == "text/csv":
        return given.asked(csv_rows(given.body))
    if kind == PARQUET:
        return given.asked(parquet_rows(given.body))
    if kind != "application/json":
        raise ApiError(415, "wrong_content_type", f"send application/json, text/csv or {PARQUET}, not {kind}")
    data = json_object(given.body)
    found = [shape for shape in SHAPES if shape in data]
    if len(found) != 1:
        raise ApiError(400, "wrong_shape", f"the body must have exactly one of {', '.join(SHAPES)}")
    more = sorted(set(data) - {found[0], "params"})
    if more:
        raise ApiError(400, "unknown_field", f"beside {found[0]} only params is taken, not {', '.join(more)}")
    rows = READ[found[0]](data[found[0]], [f.name for f in given.served.package.schema.features])
    parameters = data.get("params") or {}
    if not isinstance(parameters, dict):
        raise ApiError(400, "wrong_type", "params must be an object")
    given.notes["params"] = parameters
    ids = parameters.get("association_ids")
    return given.asked(rows, texts("association_ids", ids, len(rows)) if ids is not None else None)


def split_rows(data: Any, names: list[str]) -> list[Any]:
    """{"columns": […], "data": [[…]]}; without columns, the inputs in their order."""
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        raise ApiError(400, "wrong_shape", "dataframe_split wants columns and data")
    return listed(data["data"], data.get("columns") or names)


def listed(rows: list[Any], names: list[Any]) -> list[Any]:
    """Lists under names."""
    if not isinstance(names, list) or len(set(map(str, names))) < len(names):
        raise ApiError(400, "duplicate_columns", "columns must be a list of different names")
    for k, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise ApiError(400, "wrong_length", f"row {k} must be a list of {len(names)} values")
    return [dict(zip(map(str, names), row, strict=True)) for row in rows]


def record_rows(data: Any, names: list[str]) -> list[Any]:
    """Records."""
    del names
    if not isinstance(data, list):
        raise ApiError(400, "wrong_shape", "records must be a list of objects")
    return data


def instance_rows(data: Any, names: list[str]) -> list[Any]:
    """Objects, or lists in the order of the inputs."""
    if not isinstance(data, list):
        raise ApiError(400, "wrong_shape", "instances must be a list of rows")
    if data and all(isinstance(row, list) for row in data):
        return listed(data, names)
    if any(not isinstance(row, dict) for row in data):
        if len(names) == 1 and all(not isinstance(row, list | dict) for row in data):
            return [{names[0]: value} for value in data]
        raise ApiError(400, "wrong_shape", "instances must all be lists, or all objects")
    return data


def input_rows(data: Any, names: list[str]) -> list[Any]:
    """{column: [values]}, or rows as instances have them."""
    if not isinstance(data, dict):
        return instance_rows(data, names)
    columns = {name: values if isinstance(values, list) else [values] for name, values in data.items()}
    flat = {name: [v[0] if isinstance(v, list) and len(v) == 1 else v for v in values] for name, values in columns.items()}
    if len({len(values) for values in flat.values()}) > 1:
        raise ApiError(400, "wrong_length", "the columns of inputs have different lengths")
    return [dict(zip(flat, row, strict=True)) for row in zip(*flat.values(), strict=True)]


READ = {"dataframe_split": split_rows, "dataframe_records": record_rows, "instances": instance_rows, "inputs": input_rows}


def parquet_rows(body: bytes) -> list[dict[str, Any]]:
    """Rows of a Parquet file, in the types that JSON has."""
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(body))
    except (pa.ArrowException, OSError) as error:
        raise ApiError(422, "broken_parquet", f"the body is no Parquet file: {error}") from error
    return [{name: plain(value) for name, value in row.items()} for row in table.to_pylist()]


def plain(value: Any) -> Any:
    """A value as JSON would have brought it."""
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def encode_predictions(answer: dict[str, Any], given: Given) -> web.Response:
    """`{"predictions": […]}`: classes or values; with params.predict_method "predict_proba", probabilities."""
    rows = answer["predictions"]
    wants = given.notes.get("params", {})
    labels = given.served.package.schema.target.classes
    if wants.get("predict_method") == "predict_proba" and labels:
        found: list[Any] = [[(row.get("probabilities") or {}).get(label) for label in labels] for row in rows]
    else:
        found = [row.get("prediction") for row in rows]
    body: dict[str, Any] = {"predictions": found}
    errors = [{"row": row["row"], "error": row["error"]} for row in rows if "error" in row]
    if errors:
        body["errors"] = errors
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def decode_v1(given: Given) -> Asked:
    """KServe V1: {"instances": [[…] | {…}]}."""
    data = json_object(given.body)
    names = [f.name for f in given.served.package.schema.features]
    if "instances" not in data:
        raise ApiError(400, "wrong_shape", 'send {"instances": […]}')
    return given.asked(instance_rows(data["instances"], names))


def decode_datarobot(given: Given) -> Asked:
    """CSV or a JSON list of records."""
    if given.request.content_type in {"text/csv", "text/plain", "multipart/form-data"}:
        body = uploaded(given) if given.request.content_type == "multipart/form-data" else given.body
        given.notes["rows"] = csv_rows(body)
        return given.asked(given.notes["rows"])
    rows, ids, times = decode_json(given.body)
    given.notes["rows"] = rows
    return given.asked(rows, ids, times)


def uploaded(given: Given) -> bytes:
    """The first part of a form that was read whole."""
    boundary = given.request.headers.get("Content-Type", "").partition("boundary=")[2].strip('"').encode()
    for part in given.body.split(b"--" + boundary)[1:]:
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return content.rsplit(b"\r\n", 1)[0]
    raise ApiError(422, "no_file", "send the data as the form's field 'file'")


def encode_datarobot(answer: dict[str, Any], given: Given) -> web.Response:
    """`{"data": […]}` with DataRobot's names."""
    query = given.request.query
    columns = query.getall("passthroughColumns", [])
    every = query.get("passthroughColumnsSet") == "all"
    asked = given.notes["rows"] if columns or every else []
    data = []
    for row in answer["predictions"]:
        item: dict[str, Any] = {"rowId": row["row"], "prediction": row.get("prediction"), "deploymentApprovalStatus": "APPROVED"}
        if "probabilities" in row:
            item["predictionValues"] = [{"label": label, "value": value} for label, value in row["probabilities"].items()]
        elif "prediction" in row:
            item["predictionValues"] = [{"label": given.served.package.schema.target.name, "value": row["prediction"]}]
        if asked:
            source = asked[row["row"]]
            item["passthroughValues"] = dict(source) if every else {name: source.get(name) for name in columns}
        if "error" in row:
            item["error"] = row["error"]
        data.append(item)
    return web.Response(body=orjson.dumps({"data": data}), content_type="application/json", headers={"X-DataRobot-Model-Cache-Hit": "true"})

