"""chDB, the ClickHouse engine in-process, behind ClickHouse's HTTP interface.

ClickHouse clients use it as they would a server. A request gets a connection of its own, whose
settings die with it. Readers are read-only and bounded; only the writer's key inserts.
"""

from __future__ import annotations

import asyncio
import gzip
import hmac
import itertools
import json
import re
import signal
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import chdb
import lz4.frame
from aiohttp import BasicAuth, web
from backports import zstd

DATABASE = "champion"
THREADS = 8
MOST_BODY = 2 << 30
PIECE = 1 << 20
ENGINE = "?background_pool_size=2&mark_cache_size=67108864&index_mark_cache_size=16777216"
READER = {"max_threads": "1", "max_execution_time": "60", "max_memory_usage": "4000000000"}
TRANSPORT = frozenset(
    ["database", "query", "default_format", "buffer_size", "session_id", "session_timeout", "session_check", "query_id", "quota_key", "compress", "decompress", "wait_end_of_query", "client_protocol_version", "role", "send_progress_in_http_headers", "user", "password", "http_headers_progress_interval_ms", "enable_http_compression", "http_zlib_compression_level", "cancel_http_readonly_queries_on_client_close", "add_http_cors_header", "readonly"]
)
ARROW, END_OF_ARROW = "arrowstream", b"\xff\xff\xff\xff\0\0\0\0"
STREAMED = frozenset({"native", "tabseparated", "tsv", "csv", "rowbinary", "jsoneachrow", ARROW})
FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*(?:SETTINGS\s[^()]*)?;?\s*$", re.IGNORECASE)
INSERT = re.compile(
    rb"^(?P<into>(?:\s|--[^\n]*\n|/\*.*?\*/)*INSERT\s+INTO\s+(?:(?!\b(?:SELECT|VALUES|INFILE)\b).)*?)"
    rb"\s+FORMAT\s+(?!VALUES\b)(?P<format>\w+)[ \t]*;?(?:\r?\n|[ \t]|$)",
    re.IGNORECASE | re.DOTALL,
)
FORBIDDEN = re.compile(r"\b(INTO\s+OUTFILE|FROM\s+INFILE|KILL\s+QUERY)\b|\b(?:python|file)\s*\(|''\s*\(", re.IGNORECASE)  # file() reads any file; a quoted name before ( may be it
READS = re.compile(r"\s*\(*\s*(SELECT|WITH)\b", re.IGNORECASE)
NAME = re.compile(r"^[A-Za-z_]\w*$")
STATUS = {
    400: {6, 26, 27, 33, 36, 38, 41, 42, 43, 53, 62, 69, 70, 72, 117, 130, 456, 457},
    403: {164, 192, 193, 497, 516},
    404: {46, 47, 50, 56, 60, 63, 73, 76, 77, 81, 115},
    408: {159},
    501: {48},
}
TOKEN = re.compile(r"""(?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`|\$(\w*)\$.*?\$\2\$)|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/""", re.DOTALL)


class EngineError(Exception):
    """An answer of the engine that is an error: its code, its text, the HTTP status."""

    def __init__(self, text: str) -> None:
        """Cut what chDB puts before the engine's own words."""
        at = text.find("Code: ")
        self.text = text[at:].strip() if at >= 0 else f"Code: 1002. DB::Exception: {text} (UNKNOWN_EXCEPTION)"
        self.code = int(re.match(r"Code: (\d+)", self.text)[1])  # type: ignore[index]
        self.status = next((status for status, codes in STATUS.items() if self.code in codes), 500)
        super().__init__(self.text)


def refused(text: str) -> EngineError:
    """An error in ClickHouse's words for what readers must not do."""
    return EngineError(f"Code: 164. DB::Exception: {text}. (READONLY)")


@dataclass
class Statement:
    """One request: SQL, its data, parameters, settings, and who asks."""

    sql: bytes
    data: bytes
    parameters: dict[str, str]
    settings: dict[str, str]
    database: str
    format: str
    writer: bool
    query_id: str = field(default_factory=lambda: str(uuid.uuid4()))


class Engine:
    """The one open chDB folder; every statement runs on a fresh connection in a thread."""

    def __init__(self, folder: Path) -> None:
        """Open the folder and make the database."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = f"{folder}{ENGINE}"
        self._keep = chdb.connect(self._path)
        self._keep.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
        self.timezone = self._keep.query("SELECT timezone()", "TSV").bytes().decode().strip()

    def close(self) -> None:
        """Close the folder."""
        self._keep.close()

    def _connect(self, statement: Statement) -> Any:
        connection = chdb.connect(self._path)
        try:
            connection.query(f"USE `{statement.database.replace('`', '')}`")
            settings = dict(statement.settings) if statement.writer else statement.settings | READER
            pairs = {**settings, "log_comment": statement.query_id}
            for name in pairs:
                if not NAME.match(name):
                    raise EngineError(f"Code: 115. DB::Exception: Unknown setting {name!r}. (UNKNOWN_SETTING)")
            connection.query("SET " + ", ".join(f"{name}={quoted(value)}" for name, value in pairs.items()))
            if not statement.writer:
                connection.query("SET readonly=1")
        except BaseException:
            connection.close()
            raise
        return connection

    def insert(self, statement: Statement, match: re.Match[bytes]) -> dict[str, int]:
        """Append rows that follow `INSERT … FORMAT f`."""
        rows = statement.sql[match.end() :] + statement.data
        with closing(self._connect(statement)) as connection, connection.send_insert(match["into"].decode(), match["format"].decode()) as insert:
            insert.append(rows)
            done = insert.finish()
            return {"written_rows": int(done.rows_written), "written_bytes": int(done.bytes_written)}

    def blocks(self, statement: Statement, form: str) -> Any:
        """The answer's bytes, in pieces where the format allows it."""
        with closing(self._connect(statement)) as connection:
            sql = statement.sql.decode()
            if form.lower() not in STREAMED or not READS.match(sql):
                yield connection.query(sql, form, statement.parameters).bytes()
                return
            stream = connection.send_query(sql, form, statement.parameters)
            pieces = (chunk.bytes() for chunk in iter(stream.fetch, None))
            empty = True
            try:
                for piece in joined(pieces) if form.lower() == ARROW else pieces:
                    empty = False
                    yield piece
            finally:
                stream.cancel()
            if empty and form.lower() == ARROW:  # the engine streams nothing of an answer without rows, but its schema must be said
                yield connection.query(f"SELECT * FROM (\n{FORMAT.sub('', sql)}\n) LIMIT 0", form, statement.parameters).bytes()

    def kill(self, query_id: str) -> None:
        """Stop a query whose client has gone."""
        with closing(chdb.connect(self._path)) as connection:
            connection.query(f"KILL QUERY WHERE Settings['log_comment']={quoted(query_id)} ASYNC")


def joined(streams: Iterable[bytes]) -> Iterator[bytes]:
    """Arrow streams as one: the schema of the first, the messages of all, one end.

    A message is a mark, the length of its head, the head and a body; a schema has no body
    (https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format).
    """
    begin = 0
    for stream in streams:
        yield stream[begin : -len(END_OF_ARROW)]
        begin = 8 + int.from_bytes(stream[4:8], "little")
    if begin:
        yield END_OF_ARROW


class closing:  # noqa: N801 - like contextlib.closing, for objects whose close may fail
    """Close a connection at the end, whatever happened."""

    def __init__(self, connection: Any) -> None:
        """Take the connection."""
        self._connection = connection

    def __enter__(self) -> Any:
        """The connection."""
        return self._connection

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._connection.close()


def quoted(value: str) -> str:
    """A string literal."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


class Front:
    """The HTTP interface over an engine."""

    def __init__(self, engine: Engine, writer_key: str) -> None:
        """Remember who may write."""
        self._engine, self._key = engine, writer_key
        self._pool = ThreadPoolExecutor(THREADS, "query")
        self._side = ThreadPoolExecutor(1, "kill")

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MOST_BODY)
        app.router.add_get("/ping", ping)
        app.router.add_get("/replicas_status", ping)
        app.router.add_route("*", "/", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Run one statement."""
        if request.method in {"GET", "HEAD"} and not request.query.get("query"):
            return web.Response(text="Ok.\n")
        try:
            statement = await self._read(request)
            return await self._answer(request, statement)
        except Exception as error:  # noqa: BLE001 - whatever the engine raises is an answer
            found = error if isinstance(error, EngineError) else EngineError(str(error))
            headers = {"X-ClickHouse-Exception-Code": str(found.code)}
            return web.Response(status=found.status, text=found.text + "\n", headers=headers)

    async def _read(self, request: web.Request) -> Statement:
        pairs = dict(parse_qsl(request.query_string, keep_blank_values=True))
        body = decompressed(await request.read(), request.headers.get("Content-Encoding", ""))
        if request.content_type == "multipart/form-data":
            form, body = await multipart(request, body), b""
            pairs |= form
        sql = pairs.get("query", "").encode()
        sql, data = (sql, body) if sql else (body, b"")
        writer = self._is_writer(request, pairs)
        if not writer:
            guard(sql)
        return Statement(
            sql=sql,
            data=data,
            parameters={name[6:]: value for name, value in pairs.items() if name.startswith("param_")},
            settings={n: v for n, v in pairs.items() if n not in TRANSPORT and not n.startswith("param_")},
            database=request.headers.get("X-ClickHouse-Database") or pairs.get("database") or DATABASE,
            format=request.headers.get("X-ClickHouse-Format") or pairs.get("default_format") or "TabSeparated",
            writer=writer,
            query_id=pairs.get("query_id") or str(uuid.uuid4()),
        )

    def _is_writer(self, request: web.Request, pairs: dict[str, str]) -> bool:
        key = request.headers.get("X-ClickHouse-Key") or pairs.get("password", "")
        if "Authorization" in request.headers:
            try:
                key = BasicAuth.decode(request.headers["Authorization"]).password
            except ValueError:
                key = ""
        if key and not hmac.compare_digest(key, self._key):
            raise EngineError("Code: 516. DB::Exception: Authentication failed: wrong key. (AUTHENTICATION_FAILED)")
        return bool(key)

    async def _answer(self, request: web.Request, statement: Statement) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        headers = {"X-ClickHouse-Query-Id": statement.query_id, "X-ClickHouse-Timezone": self._engine.timezone}
        match = INSERT.match(statement.sql)
        if match:
            summary = await loop.run_in_executor(self._pool, self._engine.insert, statement, match)
            headers["X-ClickHouse-Summary"] = json.dumps({k: str(v) for k, v in summary.items()})
            return web.Response(headers=headers)
        found = FORMAT.search(statement.sql.decode(errors="replace"))
        form = found[1] if found else statement.format
        blocks = self._engine.blocks(statement, form)
        try:
            return await self._stream(request, statement, blocks, form, headers)
        except (asyncio.CancelledError, ConnectionError):
            loop.run_in_executor(self._side, self._engine.kill, statement.query_id)
            raise
        finally:
            loop.run_in_executor(self._pool, blocks.close)

    async def _stream(self, request: web.Request, statement: Statement, blocks: Any, form: str, headers: dict[str, str]) -> web.StreamResponse:
        loop = asyncio.get_running_loop()

        async def pieces() -> AsyncIterator[bytes]:
            while (piece := await loop.run_in_executor(self._pool, next, blocks, None)) is not None:
                yield piece

        chunks = pieces()
        first = await anext(chunks, b"")  # an error before the first byte becomes a plain answer
        coding, compress = compressor(request)
        tag = uuid.uuid4().hex[:16]
        headers |= {"X-ClickHouse-Format": form, "X-ClickHouse-Summary": "{}", "X-ClickHouse-Exception-Tag": tag}
        if coding:
            headers["Content-Encoding"] = coding
        response = web.StreamResponse(headers=headers)
        response.content_type = "text/plain" if form.lower().startswith(("tab", "tsv")) else "application/octet-stream"
        await response.prepare(request)
        await write(response, compress(first, False))
        try:
            async for chunk in chunks:
                await write(response, compress(chunk, False))
        except RuntimeError as error:
            message = EngineError(str(error)).text + "\n"
            tail = f"\r\n__exception__\r\n{tag}\r\n{message}{len(message)} {tag}\r\n__exception__\r\n"
            await response.write(compress(tail.encode(), False))
        await response.write(compress(b"", True))
        await response.write_eof()
        del statement
        return response


async def write(response: web.StreamResponse, data: bytes) -> None:
    """Send in pieces, each when there is room: what waits to be sent is copied more than once."""
    whole = memoryview(data)
    for at in range(0, len(whole), PIECE):
        await response.write(whole[at : at + PIECE])


async def ping(_: web.Request) -> web.Response:
    """Answer as ClickHouse does."""
    return web.Response(text="Ok.\n")


def guard(sql: bytes) -> None:
    """Refuse readers what `readonly` does not: writing and reading files, killing queries, inserting."""
    text = TOKEN.sub(lambda found: "''" if found["quoted"] else " ", sql.decode(errors="replace"))
    found = FORBIDDEN.search(text)
    if found:
        raise refused(f"{found[0].strip('( ')} is not allowed here")
    if re.match(r"\s*INSERT\b", text, re.IGNORECASE):
        raise refused("Cannot execute query in readonly mode: only the worker inserts")


def decompressed(body: bytes, coding: str) -> bytes:
    """Undo a request's Content-Encoding."""
    undo: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        "identity": bytes,
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "lz4": lz4.frame.decompress,
        "zstd": zstd.decompress,
    }
    if coding not in undo:
        raise EngineError(f"Code: 48. DB::Exception: Content-Encoding {coding}. (NOT_IMPLEMENTED)")
    return undo[coding](body)


async def multipart(request: web.Request, body: bytes) -> dict[str, str]:
    """The text fields of a form that was read already."""
    import email.parser
    import email.policy

    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    found = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        found[str(name)] = bytes(part.get_payload(decode=True) or b"").decode()
    return found


def compressor(request: web.Request) -> tuple[str, Callable[[bytes, bool], bytes]]:
    """The coding the client asked for, and a function of (data, last)."""
    if request.query.get("enable_http_compression") != "1":
        return "", lambda data, _: data
    accepted = request.headers.get("Accept-Encoding", "")
    if "zstd" in accepted:
        z = zstd.ZstdCompressor(level=1)
        return "zstd", lambda data, last: z.compress(data) + (z.flush() if last else b"")
    if "lz4" in accepted:
        frame = lz4.frame.LZ4FrameCompressor()
        heads = itertools.chain([frame.begin()], itertools.repeat(b""))
        return "lz4", lambda data, last: next(heads) + frame.compress(data) + (frame.flush() if last else b"")
    if "gzip" in accepted:
        g = zlib.compressobj(3, wbits=31)
        return "gzip", lambda data, last: g.compress(data) + (g.flush() if last else b"")
    return "", lambda data, _: data


async def serve(folder: Path, host: str, port: int, writer_key: str) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    engine = Engine(folder)
    front = Front(engine, writer_key)
    runner = web.AppRunner(front.application(), auto_decompress=False, handler_cancellation=True, access_log=None, read_bufsize=1 << 20)
    await runner.setup()
    await web.TCPSite(runner, host, port, shutdown_timeout=2).start()
    await stop.wait()
    await runner.cleanup()
    engine.close()
