"""The Open Inference Protocol V2 over REST, with the binary tensor extension (KServe, Triton, MLServer).

A deployment is a model; its inputs are columns of shape [n] or [n, 1], one an input feature, or one
tensor of shape [n, features] in the order of the metadata. A further input `association_id` (BYTES)
or `parameters.association_ids` ties rows to their actuals.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from aiohttp import web

from gateway.asked import Asked, Served
from gateway.errors import ApiError
from gateway.protocols.native import json_object, moments, texts
from gateway.protocols.run import Given
from models.columns import Column, Columns, plain_values
from models.schema import TOGETHER, Target
from models.types import Floats

HEADER = "Inference-Header-Content-Length"
NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
KINDS = {"categorical": "BYTES", "numeric": "FP64", "boolean": "FP64"}
IDS, TIMES = "association_id", "timestamp"
WIDTHS = {kind: np.dtype(of).itemsize for kind, of in NUMPY.items()}
WIDEST, EXACT = 8, 1 << 53  # bytes of the widest number; whole numbers up to it are exact in float64
LENGTH = 4  # bytes before a text


def metadata(served: Served) -> dict[str, Any]:
    """What the model takes and gives."""
    schema = served.package.schema
    return {
        "name": served.name,
        "versions": [str(served.version)],
        "platform": "champion_tabular",
        "inputs": [{"name": f.name, "datatype": KINDS.get(f.kind, "BYTES"), "shape": [-1, 1]} for f in schema.features],
        "outputs": output_shapes(served),
    }


def output_shapes(served: Served) -> list[dict[str, Any]]:
    """The outputs' names, types and shapes."""
    return shapes_of(served.package.schema.target)


@lru_cache(maxsize=256)
def shapes_of(target: Target) -> list[dict[str, Any]]:
    """The outputs of models of a target."""
    if target.task == "regression":
        return [{"name": "predict", "datatype": "FP64", "shape": [-1, 1]}]
    return [
        {"name": "predict", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "predict_proba", "datatype": "FP64", "shape": [-1, len(target.classes)], "parameters": {"labels": list(target.classes)}},
    ]


@dataclass(slots=True)
class Read:
    """A request as V2 has it: the document, and the rows with their ids and times."""

    document: dict[str, Any]
    rows: Columns
    ids: list[str] | None
    times: list[int] | None
    timeout: int  # microseconds since it came; 0: none
    outputs: list[tuple[dict[str, Any], bool]]  # that are asked for, and whether each is wanted as bytes


def decode(given: Given) -> Asked:
    """Columns or one tensor, as JSON or as bytes behind it."""
    version = given.request.match_info.get("v", "")
    if version and version != str(given.served.version):
        raise ApiError(404, "unknown_version", f"{given.served.name!r} serves version {given.served.version}, not {version}")
    found = read(given.body, given.request.headers.get(HEADER), given.served)
    given.notes["read"] = found
    limits = [limit for limit in (given.deadline, given.begun + found.timeout * 1000 if found.timeout else 0) if limit]
    return given.asked(found.rows, found.ids, found.times, columnar=True, deadline=min(limits, default=0))


def read(body: bytes, length: str | None, served: Served) -> Read:
    """A body whose JSON has `length` bytes (None: all of it)."""
    document, rest = parts_of(body, length)
    end = len(body) - len(rest)
    switches = body.find(b"true", 0, end) >= 0 or body.find(b"false", 0, end) >= 0
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(i, dict) for i in inputs):
        raise ApiError(400, "no_inputs", "inputs must be a list of tensors")
    wanted = wanted_outputs(document, served)
    columns: dict[str, Column] = {}
    whole: Columns | None = None
    count, at = -1, 0
    for item in inputs:
        name, shape, values, at = tensor(item, rest, at, switches=switches)
        if count not in {-1, shape[0]}:
            raise ApiError(400, "wrong_shape", f"input {name!r} has {shape[0]} rows, the others {count}")
        count = shape[0]
        if isinstance(values, np.ndarray) and shape[1:] == [len(served.package.schema.features)] and shape[1] > 1:
            values = values.reshape(shape)
            if len(inputs) == 1:
                whole = Columns(served.package.schema.names, count, values)
                break
        found = columns_of(name, shape, values, served)
        if twice := sorted(found.keys() & columns.keys()):
            raise ApiError(400, "duplicate_columns", f"more than one input gives {twice[0]!r}")
        columns |= found
    if at != len(rest):
        raise ApiError(400, "wrong_length", f"{len(rest) - at} bytes are left over after the last binary input")
    parameters = document.get("parameters") or {}
    given = None
    if IDS in columns and IDS not in {f.name for f in served.package.schema.features}:
        given = plain_values(columns.pop(IDS))
    ids = given if given is not None else parameters.get("association_ids")
    times = parameters.get("timestamps")
    return Read(document, whole if whole is not None else Columns(columns, count), texts(IDS, ids, count) if ids is not None else None, moments(times, count) if times is not None else None, timeout_of(parameters), wanted)


def timeout_of(parameters: dict[str, Any]) -> int:
    """Triton's `timeout` parameter: microseconds since the request came; 0: none."""
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout < 1 << 50:
        raise ApiError(400, "wrong_option", f"parameters.timeout is a whole number of microseconds, not {timeout!r}")
    return timeout


def parts_of(body: bytes, length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON document and the bytes behind it, by the header and not by the content type."""
    if length is None:
        return json_object(body), b""
    if not length.isdigit() or int(length) > len(body):
        raise ApiError(400, "wrong_length", f"{HEADER} is {length!r}, the body has {len(body)} bytes")
    return json_object(body[: int(length)]), body[int(length) :]


def tensor(item: dict[str, Any], rest: bytes, at: int, *, switches: bool) -> tuple[str, list[int], Column, int]:
    """One input: its name, shape, flat values, and where in the binary part the next one begins.

    `switches` says that the document has truth values, so they may be among these.
    """
    name, shape, kind = item.get("name"), item.get("shape"), item.get("datatype")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "no_name", "each input has a name")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n >= 0 for n in shape):
        raise ApiError(400, "wrong_shape", f"the shape of input {name!r} must be a list of sizes")
    if kind not in NUMPY and kind != "BYTES":
        raise ApiError(400, "wrong_datatype", f"the datatype of input {name!r} is none of {', '.join(NUMPY)}, BYTES")
    size = (item.get("parameters") or {}).get("binary_data_size")
    count = math.prod(shape)
    values: Column
    if size is not None:
        if type(size) is not int or not 0 <= size <= len(rest) - at:
            raise ApiError(400, "wrong_length", f"input {name!r} claims {size} bytes, {len(rest) - at} are left")
        part, at = rest[at : at + size], at + size
        values = strings(name, part) if kind == "BYTES" else numbers(name, kind, part)
    else:
        data = item.get("data")
        together = len(shape) > 1 and count >= TOGETHER * shape[1] and kind.startswith("FP")
        found = floats_of(data, switches=switches) if together and isinstance(data, list) else None
        values = flat(data) if found is None else found
        if found is None and dict in set(map(type, values)):
            raise ApiError(400, "wrong_type", f"the data of input {name!r} must be a list of values")
    if len(values) != count:
        raise ApiError(400, "wrong_length", f"input {name!r} has {len(values)} values, its shape {shape} wants {count}")
    return name, shape, values, at


def numbers(name: str, kind: str, data: bytes) -> Column:
    """Little-endian numbers as float64, NaN for missing; whole numbers that it cannot hold, and truth values, as they are."""
    width = WIDTHS[kind]
    if len(data) % width:
        raise ApiError(400, "wrong_length", f"input {name!r} has {len(data)} bytes, no multiple of {width}")
    found = np.frombuffer(data, dtype=NUMPY[kind])
    if kind == "BOOL" or (width == WIDEST and not kind.startswith("FP") and len(found) and (found.max() > EXACT or found.min() < -EXACT)):
        plain: list[Any] = found.tolist()
        return plain
    values = found.astype(np.float64)
    return values if len(values) >= TOGETHER else plain_values(values)


def floats_of(values: list[Any], *, switches: bool) -> Floats | None:
    """A list of numbers as float64; None where anything else is in it, or a number that is too large.

    `struct` takes a third of NumPy's time and no text for a number, but a truth value: where `switches` says that there may be one it is looked for.
    """
    if switches and bool in set(map(type, values)):
        return None
    try:
        return np.frombuffer(struct.pack(f"{len(values)}d", *values))
    except struct.error:
        return None


def strings(name: str, data: bytes) -> list[str]:
    """Texts, each after its length in four bytes."""
    if data.isascii() and len(data) > LENGTH:
        (length,) = struct.unpack_from("<I", data)
        step = LENGTH + length
        if not len(data) % step and all(data[k::step] == data[k : k + 1] * (len(data) // step) for k in range(LENGTH)):
            whole = data.decode()
            return [whole[at : at + length] for at in range(LENGTH, len(data), step)]  # all of one length, as codes often are
    found, at = [], 0
    while at < len(data):
        if at + LENGTH > len(data):
            raise ApiError(400, "wrong_length", f"input {name!r} ends within a length")
        (length,) = struct.unpack_from("<I", data, at)
        at += LENGTH
        if at + length > len(data):
            raise ApiError(400, "wrong_length", f"input {name!r} ends within a text")
        try:
            found.append(data[at : at + length].decode())
        except UnicodeDecodeError as error:
            raise ApiError(400, "wrong_type", f"input {name!r} holds a text that is not UTF-8") from error
        at += length
    return found


def flat(data: Any) -> list[Any]:
    """Nested lists, row-major."""
    if not isinstance(data, list):
        return [] if data is None else [data]
    if list in set(map(type, data)):
        return [x for v in data for x in flat(v)]
    return data


def columns_of(name: str, shape: list[int], values: Column, served: Served) -> dict[str, Column]:
    """A column, or the features in their order."""
    schema = served.package.schema
    if len(shape) == 1 or (len(shape) == 2 and shape[1] == 1 and (len(schema.features) > 1 or name == schema.features[0].name or name in schema.unused)):  # noqa: PLR2004
        return {name: values}
    if len(shape) == 2 and shape[1] == len(schema.features):  # noqa: PLR2004
        width = shape[1]
        of = list(values.T.copy()) if isinstance(values, np.ndarray) else [values[k::width] for k in range(width)]
        return dict(zip(schema.names, of, strict=True))
    raise ApiError(400, "wrong_shape", f"input {name!r} has shape {shape}: send [n] or [n, 1] a feature, or one [n, {len(schema.features)}]")


def wanted_outputs(document: dict[str, Any], served: Served) -> list[tuple[dict[str, Any], bool]]:
    """The outputs asked for, and whether each is wanted as bytes."""
    every = bool((document.get("parameters") or {}).get("binary_data_output", False))
    asked = document.get("outputs")
    if not asked:
        return [(o, every) for o in output_shapes(served)]
    have = {o["name"]: o for o in output_shapes(served)}
    found = []
    for item in asked:
        name = item.get("name") if isinstance(item, dict) else None
        if name not in have:
            raise ApiError(400, "unknown_output", f"there is no output {name!r}; outputs: {', '.join(have)}")
        found.append((have[name], bool((item.get("parameters") or {}).get("binary_data", every))))
    return found


def encode(answer: dict[str, Any], given: Given) -> web.Response:
    """Outputs as JSON, or as bytes behind it where that was asked."""
    head, tail = written(answer, given.notes["read"], given.served)
    if not tail:
        return web.Response(body=head, content_type="application/json")
    return web.Response(body=head + tail, content_type="application/octet-stream", headers={HEADER: str(len(head))})


def written(answer: dict[str, Any], asked: Read, served: Served) -> tuple[bytes, bytes]:
    """The answer's JSON and the bytes behind it."""
    rows, found = answer["predictions"], answer.get("outputs")
    count = len(found.values) if found else len(rows)
    outputs, tail = [], b""
    for shape, binary in asked.outputs:
        label, width = shape["name"] == "predict", shape["shape"][1]
        out: dict[str, Any] = {**shape, "shape": [count, width]}
        values: Any
        if found and label:
            values = found.labels if found.labels is not None else found.values[:, 0].copy()
        elif found:
            values = found.values.reshape(-1)
        elif label:
            values = [row.get("prediction") for row in rows]
        else:
            values = [(row.get("probabilities") or {}).get(one) for row in rows for one in shape["parameters"]["labels"]]
        if binary:
            data = packed(values, shape["datatype"])
            out["parameters"] = {**shape.get("parameters", {}), "binary_data_size": len(data)}
            tail += data
        else:
            out["data"] = values
        outputs.append(out)
    errors = {str(row["row"]): row["error"] for row in rows if "error" in row}
    body = {
        "model_name": served.name,
        "model_version": str(answer["deployment_version"]),
        "id": str(asked.document.get("id") or answer["request_id"]),
        "parameters": {"model_id": answer["model_id"], "request_id": answer["request_id"], "recorded": answer["recorded"], "position": answer["position"], **({"errors": orjson.dumps(errors).decode()} if errors else {})},
        "outputs": outputs,
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), tail


def packed(values: Any, kind: str) -> bytes:
    """Values as the binary extension has them."""
    if kind == "BYTES":
        texts = {value: ("" if value is None else str(value)).encode() for value in set(values)}  # labels: a few texts, many times
        packed_texts = {value: struct.pack("<I", len(text)) + text for value, text in texts.items()}
        return b"".join([packed_texts[value] for value in values])
    if isinstance(values, np.ndarray):
        return values.astype(NUMPY[kind]).tobytes()
    return np.array([np.nan if v is None else v for v in values], dtype=NUMPY[kind]).tobytes()
