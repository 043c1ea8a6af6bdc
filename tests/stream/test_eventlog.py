"""Clients that know nothing of us use the embedded engine as they would a ClickHouse server."""

import asyncio
import urllib.parse
import urllib.request

import clickhouse_connect
import pyarrow as pa
import pytest

from stream.clickhouse import DICTIONARIES, EventLog
from stream.errors import LogUnavailable, QueryRejected


def curl(front, body=None, **query):
    url = f"{front.url}/?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_plain_http_answers_a_query(front):
    assert curl(front, query="SELECT 1 + 1") == (200, "2\n")
    assert curl(front, b"SELECT 'x' AS a FORMAT JSONEachRow") == (200, '{"a":"x"}\n')
    assert curl(front, query="SELECT {x:Int32} * 2", param_x="21") == (200, "42\n")


@pytest.mark.parametrize("compress", [False, True, "lz4", "zstd", "gzip"])
def test_clickhouse_connect_queries_with_any_compression(front, compress):
    client = clickhouse_connect.get_client(host="127.0.0.1", port=front.port, compress=compress)
    assert client.query("SELECT number AS n, toString(number) AS s FROM numbers(3)").result_rows == [(0, "0"), (1, "1"), (2, "2")]
    assert client.query_arrow("SELECT number FROM numbers(100000)").num_rows == 100_000
    assert client.query("SELECT {a:String}, {b:Array(Int32)}", parameters={"a": "it's", "b": [1, 2]}).result_rows == [("it's", [1, 2])]
    client.close()


def test_the_asyncio_client_works_too(front):
    async def ask():
        client = await clickhouse_connect.get_async_client(host="127.0.0.1", port=front.port)
        try:
            return (await client.query("SELECT 7")).result_rows
        finally:
            await client.close()

    assert asyncio.run(ask()) == [(7,)]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO champion.migrations (version) VALUES (99)",
        "/* hi */ INSERT INTO champion.migrations SELECT 1, now()",
        "CREATE TABLE champion.x (a Int8) ENGINE = Memory",
        "DROP TABLE champion.events_log",
        "ALTER TABLE champion.events_log DELETE WHERE 1",
        "SELECT 1 INTO OUTFILE '/tmp/stolen'",
        "SELECT 1 INTO /* x */ OUTFILE '/tmp/stolen'",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT '--' AS x INTO OUTFILE '/tmp/stolen'",
        "SELECT '/*' AS x INTO OUTFILE '/tmp/stolen' /* */",
        'SELECT 1 AS "--" INTO OUTFILE \'/tmp/stolen\'',
        "SELECT 'it''s' AS `'` INTO OUTFILE '/tmp/stolen'",
        "KILL QUERY WHERE 1",
        "SET max_threads = 8",
    ],
)
def test_a_reader_can_only_read(front, sql):
    status, text = curl(front, sql.encode())
    assert status >= 400, text
    assert "Code: " in text


def test_a_wrong_key_is_no_key(front):
    status, text = curl(front, b"SELECT 1", user="writer", password="guess")
    assert status == 403
    assert "AUTHENTICATION_FAILED" in text


def test_the_writers_key_inserts_and_others_see_it(front):
    front.writer.insert("heartbeats", pa.table({"part": ["test"], "instance": ["i"], "at": pa.array([1], pa.timestamp("us", tz="UTC")), "detail": ["{}"]}))
    assert front.reader.rows("SELECT part, instance FROM heartbeats WHERE part = 'test'") == [{"part": "test", "instance": "i"}]


def test_errors_are_ours_and_say_what_the_engine_said(front):
    with pytest.raises(QueryRejected, match="UNKNOWN_TABLE"):
        front.reader.rows("SELECT * FROM nowhere")
    with pytest.raises(LogUnavailable):
        EventLog("http://127.0.0.1:9").rows("SELECT 1")


def test_an_error_in_the_middle_of_an_answer_is_an_error(front):
    client = clickhouse_connect.get_client(host="127.0.0.1", port=front.port)
    with pytest.raises(clickhouse_connect.driver.exceptions.ClickHouseError, match="FUNCTION_THROW_IF"):
        client.query("SELECT number, throwIf(number = 4000000) FROM numbers(5000000)").result_rows  # noqa: B018 - read when asked for
    client.close()


def test_an_arrow_answer_comes_in_pieces_with_one_schema(front):
    found = front.reader.arrow("SELECT number AS n, toLowCardinality(toString(number % 70000)) AS s, map(s, n) AS m FROM numbers(700000)", settings=DICTIONARIES)
    assert found.column("n").num_chunks > 5
    assert found.column("n").to_pylist() == list(range(700_000))
    assert found.column("s").cast("string").to_pylist() == [str(n % 70_000) for n in range(700_000)]
    assert [dict(m) for m in found.column("m")[69_999:70_001].to_pylist()] == [{"69999": 69_999}, {"0": 70_000}]


@pytest.mark.parametrize("query", ["SELECT 1 AS a WHERE 0", "SELECT 'x' AS a WHERE 0 UNION ALL SELECT 'y' WHERE 0;", "SELECT sum(number) AS a FROM numbers(0) GROUP BY number ORDER BY a SETTINGS max_threads = 1 -- none"])
def test_an_arrow_answer_without_rows_has_its_columns(front, query):
    found = front.reader.arrow(query)
    assert (found.num_rows, found.column_names) == (0, ["a"])


@pytest.mark.parametrize("ask", [EventLog.arrow, EventLog.rows, EventLog.raw])
def test_an_error_in_the_middle_of_what_we_read_is_the_engines(front, ask):
    with pytest.raises(QueryRejected, match="FUNCTION_THROW_IF"):
        ask(front.reader, "SELECT number, throwIf(number = 400000) FROM numbers(500000)")


def test_migrations_are_applied_once(front):
    assert front.writer.migrate() == front.writer.migrate() >= 1


@pytest.mark.parametrize("query", ["SELECT file('/etc/hostname')", "SELECT FILE ('/etc/hostname')", "SELECT `file`('/etc/hostname')", "SELECT \"file\" ('/etc/hostname')", "SELECT /* */ file/**/('/etc/hostname')"])
def test_a_reader_reads_no_files(front, query):
    with pytest.raises((QueryRejected, LogUnavailable)):
        front.reader.rows(query + " AS x")
    assert front.reader.rows("SELECT 'file(' AS x, concat('a', '') AS y, 1 IN (1, 2) AS z") == [{"x": "file(", "y": "a", "z": 1}]
