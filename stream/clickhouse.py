"""The event log over ClickHouse's HTTP interface: the only importer of clickhouse_connect."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
import orjson
import pyarrow as pa
from clickhouse_connect import common
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from stream.errors import LogUnavailable, QueryRejected
from stream.migrations import migrations

DATABASE = "champion"
# Answers that will not change when the same statement is sent again.
REJECTED = frozenset(
    {6, 8, 10, 16, 20, 26, 27, 33, 36, 38, 41, 42, 43, 44, 46, 47, 48, 49, 50, 51, 53, 57, 60, 62, 63, 69, 70, 72, 73, 76, 77, 81, 115, 117, 120, 130}
    | {164, 170, 179, 182, 184, 190, 192, 193, 206, 215, 218, 270, 291, 344, 349, 352, 386, 395, 403, 406, 407, 456, 457, 467, 497, 516, 524, 549, 552, 599, 611, 636, 648, 713}
)
WRITER = "writer"
NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)
CLICKHOUSE = {"int64": "Int64", "double": "Float64", "string": "String"}  # types of Arrow and of ClickHouse
BROKEN, MOST_WORDS = b"\r\n__exception__\r\n", 20_000
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
DICTIONARIES = {"output_format_arrow_low_cardinality_as_dictionary": 1}  # texts of few values, and a map's keys, as numbers: three times as fast to read
common.set_setting("invalid_setting_action", "send")  # a reader's account may set formats although the client thinks it may set nothing


class EventLog:
    """Inserts and queries, from any thread; a client is made at the first use."""

    def __init__(self, url: str, *, writer_key: str = "", timeout: float = 300.0) -> None:
        """Remember where the log is; `writer_key` is for the worker alone."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 8123
        self._user = parts.username or (WRITER if writer_key else "default")
        self._password = parts.password or writer_key
        self._secure, self._timeout = parts.scheme == "https", timeout
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The clickhouse-connect client; LogUnavailable while the log does not answer."""
        if self._client is None:
            try:
                self._client = clickhouse_connect.get_client(
                    host=self._host,
                    port=self._port,
                    username=self._user,
                    password=self._password,
                    interface="https" if self._secure else "http",
                    database="default",
                    autogenerate_session_id=False,
                    send_receive_timeout=self._timeout,
                    query_retries=0,
                    compress=False,
                )
                self._client.database = DATABASE
            except (ClickHouseError, OSError) as error:
                raise LogUnavailable(f"the event log does not answer: {first_line(error)}") from error
        return self._client

    def migrate(self) -> int:
        """Bring the tables to the newest version; answers it. Safe to run by several workers."""
        self._run(lambda c: c.command(f"CREATE DATABASE IF NOT EXISTS {DATABASE}"))
        self._run(lambda c: c.command("CREATE TABLE IF NOT EXISTS migrations (version UInt32, applied_at DateTime DEFAULT now()) ENGINE = ReplacingMergeTree ORDER BY version"))
        have = self.rows("SELECT max(version) AS v FROM migrations")[0]["v"]
        for version, statements in migrations():
            if version > have:
                for statement in statements:
                    self._run(lambda c, s=statement: c.command(s))
                self._run(lambda c, v=version: c.command(f"INSERT INTO migrations (version) VALUES ({v})"))
                have = version
        return int(have)

    def insert(self, table: str, *rows: pa.Table) -> None:
        """Append Arrow tables of one schema in one insert; returns when the log has them.

        Rows that repeat each other within an insert are left to the merge and to FINAL, like those of two inserts:
        the engine's own pass over every block (`optimize_on_insert`) costs more than sorting and writing it.
        """
        filled = [part for part in rows if part.num_rows]
        if not filled:
            return
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, filled[0].schema) as writer:
            for part in filled:
                writer.write_table(part)
        names = filled[0].schema.names
        block = sink.getvalue().to_pybytes()
        settings = {"max_insert_block_size": 1 << 22, "min_insert_block_size_rows": 1 << 22, "min_insert_block_size_bytes": 1 << 30, "optimize_on_insert": 0}
        self._run(lambda c: c.raw_insert(table, names, block, settings=settings, fmt="ArrowStream"))

    def arrow(self, sql: str, parameters: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None) -> pa.Table:
        """A query's answer as Arrow, texts as strings."""
        near = {"output_format_arrow_compression_method": "none"} if self._host in LOOPBACK else {}  # packing costs more than the way
        data = self.raw(sql, parameters, "ArrowStream", {"output_format_arrow_string_as_string": 1, **near, **(settings or {})})
        return pa.ipc.open_stream(data).read_all()

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """A small answer as row dicts, with JSON's types (64-bit integers as numbers)."""
        data = self.raw(sql, parameters, "JSONEachRow", {"output_format_json_quote_64bit_integers": 0})
        return [orjson.loads(line) for line in data.splitlines() if line]

    def raw(self, sql: str, parameters: Mapping[str, Any] | None = None, form: str = "JSON", settings: Mapping[str, Any] | None = None) -> bytes:
        """An answer's bytes in one of ClickHouse's formats."""
        found: bytes = self._run(lambda c: c.raw_query(sql, parameters=dict(parameters or {}), settings=dict(settings or {}), fmt=form))
        if found.endswith(BROKEN):  # an answer that has begun can only end with what went wrong
            raise judged(found[-MOST_WORDS:].decode(errors="replace"))
        return found

    def command(self, sql: str, settings: Mapping[str, Any] | None = None) -> None:
        """Run a statement without an answer (the worker's key alone may)."""
        self._run(lambda c: c.command(sql, settings=dict(settings or {})))

    def ready(self) -> bool:
        """Whether the log answers and has its tables."""
        try:
            return bool(self.rows("SELECT count() AS n FROM system.tables WHERE database = 'champion' AND name = 'heartbeats'")[0]["n"])
        except (LogUnavailable, QueryRejected):
            return False

    def wait(self, seconds: float) -> None:
        """Wait until the log answers; LogUnavailable when the time is over."""
        end = time.monotonic() + seconds
        while True:
            try:
                self._run(lambda c: c.command("SELECT 1"))
            except LogUnavailable:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                return

    def _run(self, call: Any) -> Any:
        client = self.client
        try:
            return call(client)
        except OperationalError as error:
            raise LogUnavailable(first_line(error)) from error
        except ClickHouseError as error:
            raise judged(str(error)) from error
        except OSError as error:
            raise LogUnavailable(first_line(error)) from error


def judged(text: str) -> LogUnavailable | QueryRejected:
    """What an engine's words mean: a query that will never do, or something that passes: memory, timeouts, too many parts, a full disk."""
    found = re.search(r"Code: (\d+)", text)
    kind = QueryRejected if found is not None and int(found[1]) in REJECTED else LogUnavailable
    return kind(first_line(text))


@contextlib.contextmanager
def outside(url: str) -> Iterator[Any]:
    """A client of any ClickHouse; the URL names user, password and database. LogUnavailable and QueryRejected say what went wrong."""
    parts = urlsplit(url)
    try:
        yield clickhouse_connect.get_client(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or (8443 if parts.scheme == "https" else 8123),
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            interface=parts.scheme,
            database=parts.path.strip("/") or "__default__",
            autogenerate_session_id=False,
            query_retries=0,
        )
    except OperationalError as error:
        raise LogUnavailable(first_line(error)) from error
    except ClickHouseError as error:
        raise QueryRejected(first_line(error)) from error


def parquet_of(url: str, sql: str, path: Path) -> None:
    """Write the answer of any ClickHouse to a query as a Parquet file."""
    with outside(url) as client, path.open("wb") as out, client.raw_stream(sql, fmt="Parquet") as stream:
        while piece := stream.read(1 << 20):
            out.write(piece)


def fill_table(url: str, table: str, batch: str, rows: Iterator[pa.Table]) -> None:
    """Put numbered rows (their first column) into a table of any ClickHouse, which is made where there is none, under the name of a batch.

    Each piece is one insert. What the table has of the batch already is left out: a run that broke off is gone on with.
    """
    if not NAME.fullmatch(table):
        raise QueryRejected(f"{table!r} is no name of a table: letters, digits and underscores, and a database before a dot")
    with outside(url) as client:
        there = -1
        for piece in rows:
            if there < 0:
                make_table(client, table, piece.schema)
                there = int(client.query(f"SELECT count() AS n FROM {table} WHERE batch = {{batch:String}}", {"batch": batch}).first_row[0])
            known, there = min(there, len(piece)), max(0, there - len(piece))
            rest = piece.slice(known)
            if len(rest):
                client.insert_arrow(table, rest.add_column(0, "batch", pa.array([batch] * len(rest), pa.string())))


def make_table(client: Any, table: str, schema: pa.Schema) -> None:
    """A table for numbered rows of a batch, where there is none."""
    types = ["{}" if k == 0 else "Nullable({})" for k in range(len(schema.names))]
    names = [name.replace("\\", "\\\\").replace("`", "\\`") for name in schema.names]
    columns = ", ".join(f"`{name}` {kind.format(CLICKHOUSE[str(of)])}" for name, kind, of in zip(names, types, schema.types, strict=True))
    client.command(f"CREATE TABLE IF NOT EXISTS {table} (batch String, {columns}) ENGINE = MergeTree ORDER BY (batch, `{names[0]}`)")


def first_line(error: BaseException | str) -> str:
    """The gist of an error's text."""
    text = str(error).strip()
    at = text.find("Code: ")
    return (text[at:] if at >= 0 else text).splitlines()[0][:2000] if text else type(error).__name__
