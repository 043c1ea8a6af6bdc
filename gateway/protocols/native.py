"""Our own JSON and CSV."""

from __future__ import annotations

import io
import json
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
from aiohttp import web

from gateway.asked import Asked, text_of
from gateway.errors import ApiError
from gateway.protocols.run import Given
from stream.clock import parse_time


def decode(given: Given) -> Asked:
    """JSON rows, an object with rows, or CSV; `?explain=` and `?interval=` ask for more."""
    query = given.request.query
    more: dict[str, Any] = {"explain": count_of(query.get("explain", "")), "interval": level_of(query.get("interval", ""))}
    if given.request.content_type in {"text/csv", "text/plain"}:
        return given.asked(csv_rows(given.body), **more)
    return given.asked(*decode_json(given.body), **more)


def encode(answer: dict[str, Any], given: Given) -> web.Response:
    """The answer as it is."""
    del given
    return web.Response(body=orjson.dumps(answer), content_type="application/json")


def count_of(text: str) -> int:
    """How many contributions are wanted."""
    if not text:
        return 0
    if not text.isdigit() or not 0 <= int(text) <= 100:  # noqa: PLR2004
        raise ApiError(422, "wrong_option", "explain is a number from 0 to 100")
    return int(text)


def level_of(text: str) -> float:
    """The wanted coverage of an interval, 0 for none."""
    try:
        level = float(text or 0)
    except ValueError:
        level = -1.0
    if not 0 <= level < 1:
        raise ApiError(422, "wrong_option", "interval is a coverage between 0 and 1, such as 0.9")
    return level


def decode_json(body: bytes) -> tuple[list[Any], list[str] | None, list[int] | None]:
    """Rows, association ids and times of a JSON body."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "broken_json", f"the body is not JSON: {error}") from error
    return (data, None, None) if type(data) is list else parts_of(data)


def parts_of(data: Any) -> tuple[list[Any], list[str] | None, list[int] | None]:
    """Rows, association ids and times of an object."""
    if type(data) is not dict or type(data.get("rows")) is not list:
        raise ApiError(422, "wrong_type", 'send {"rows": [{feature: value}, …]}, a list of rows, or CSV')
    rows = data["rows"]
    ids = data.get("association_ids")
    times = data.get("timestamps")
    if ids is not None:
        ids = texts("association_ids", ids, len(rows))
    if times is not None:
        times = moments(times, len(rows))
    return rows, ids, times


def lenient_json(body: bytes) -> Any:
    """JSON, with the bare NaN that Python's own clients write (tritonclient without binary data) read as null.

    Raises ValueError.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body, parse_constant=lambda word: None if word == "NaN" else float(word))


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object, as the other protocols' clients write it."""
    try:
        data = lenient_json(body)
    except ValueError as error:
        raise ApiError(400, "broken_json", f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ApiError(400, "wrong_type", "the body must be a JSON object")
    return data


def texts(name: str, values: Any, count: int) -> list[str]:
    """A list of ids, one a row."""
    if type(values) is not list or len(values) != count:
        raise ApiError(422, "wrong_length", f"{name} must be a list with one value a row")
    found = [v if type(v) is str else text_of(v) for v in values]
    if any(not v or len(v) > 128 for v in found):  # noqa: PLR2004
        raise ApiError(422, "wrong_type", f"{name} must be texts of 1 to 128 characters")
    return found


def moments(values: Any, count: int) -> list[int]:
    """A list of times, one a row, in microseconds."""
    if type(values) is not list or len(values) != count:
        raise ApiError(422, "wrong_length", "timestamps must be a list with one time a row")
    try:
        return [parse_time(v) for v in values]
    except (ValueError, OverflowError, OSError) as error:
        raise ApiError(422, "wrong_time", f"timestamps: {error}") from error


def csv_rows(body: bytes) -> list[dict[str, Any]]:
    """CSV with a header as row dicts of texts; empty cells are missing."""
    try:
        header = next(pyarrow.csv.open_csv(io.BytesIO(body), convert_options=pyarrow.csv.ConvertOptions(null_values=[""]))).schema.names
        table = pyarrow.csv.read_csv(
            io.BytesIO(body),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), null_values=[""], strings_can_be_null=True),
        )
    except (pa.ArrowException, OSError, StopIteration, UnicodeDecodeError) as error:
        raise ApiError(422, "broken_csv", f"the body is no CSV with a header row: {error}") from error
    if len(set(header)) < len(header):
        raise ApiError(422, "duplicate_columns", "a column name comes more than once")
    return list(table.to_pylist())
