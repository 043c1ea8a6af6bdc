"""Batch predictions: every row once, in order, whatever the format, with an error a row, broken off and gone on with."""

import itertools
import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from gateway import batch
from gateway.cli import main
from gateway.up import writer_key
from models.errors import DataError
from stream.clickhouse import EventLog
from tests.support import deploy_small

COUNT = 1234


@pytest.fixture(scope="module")
def files(system, tmp_path_factory):
    """The same rows as CSV, Parquet and Arrow; what the deployment answers to them."""
    folder = tmp_path_factory.mktemp("batch")
    deploy_small(system, folder, names=("bulk",), shadows=())
    table = pa.table({"x": [k % 97 / 40 - 1 for k in range(COUNT)], "z": [None if k % 50 == 0 else k % 7 / 3 for k in range(COUNT)]})
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    pyarrow.parquet.write_table(table, folder / "rows.parquet", row_group_size=100)
    with pyarrow.ipc.new_file(folder / "rows.arrow", table.schema) as sink:
        sink.write_table(table, max_chunksize=77)
    answer = system.api.post("/v1/deployments/bulk/predictions", {"rows": table.to_pylist()})
    return folder, answer["predictions"]


def read(path):
    if path.suffix == ".csv":
        return pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types={"prediction": pa.string()})).to_pylist()
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    with pyarrow.ipc.open_file(path) as found:
        return found.read_all().to_pylist()


@pytest.mark.parametrize("given", [".csv", ".parquet", ".arrow"])
@pytest.mark.parametrize("wanted", [".csv", ".parquet", ".arrow"])
def test_every_row_is_answered_once_in_order_in_any_format(system, files, tmp_path, given, wanted):
    folder, expected = files
    output = tmp_path / f"out{wanted}"
    assert batch.score(system.api, "bulk", folder / f"rows{given}", output, rows=100) == {"rows": COUNT, "errors": 0}
    found = read(output)
    assert [r["row"] for r in found] == list(range(COUNT))
    assert [r["prediction"] for r in found] == [p["prediction"] for p in expected]
    assert [r["p_1"] for r in found] == [p["probabilities"]["1"] for p in expected]
    assert found[0]["warnings"] == "; ".join(expected[0]["warnings"])
    assert [p.name for p in tmp_path.iterdir()] == [output.name]  # nothing is left beside it


def test_a_run_that_was_broken_off_asks_only_for_the_pieces_that_are_missing(system, files, tmp_path):
    folder, expected = files
    asked = []

    class Breaking:
        """A client that is cut off after seven requests."""

        get = system.api.get

        def call(self, method, path, body, **more):
            if len(asked) == 7:
                raise KeyboardInterrupt
            asked.append(more["headers"]["X-Request-ID"])
            return system.api.call(method, path, body, **more)

    with pytest.raises(KeyboardInterrupt):
        batch.score(Breaking(), "bulk", folder / "rows.parquet", tmp_path / "out.parquet", rows=100)
    assert not (tmp_path / "out.parquet").exists()
    first = list(asked)
    asked.clear()

    class Counting(Breaking):
        def call(self, method, path, body, **more):
            asked.append(more["headers"]["X-Request-ID"])
            return system.api.call(method, path, body, **more)

    batch.score(Counting(), "bulk", folder / "rows.parquet", tmp_path / "out.parquet", rows=100)
    assert len(asked) == 13 - 7
    assert not set(first) & set(asked)
    assert [r["prediction"] for r in read(tmp_path / "out.parquet")] == [p["prediction"] for p in expected]


def test_a_row_that_cannot_be_scored_has_its_error_and_so_has_each_where_none_can(system, files, tmp_path):
    rows = ["x,z", *("far,1" if k in {3, 4} else "0.5,1" for k in range(6))]
    file = tmp_path / "odd.csv"
    file.write_text("\n".join(rows) + "\n")
    counts = batch.score(system.api, "bulk", file, tmp_path / "out.csv", rows=2)
    found = read(tmp_path / "out.csv")
    assert counts["rows"] == 6
    bad = [r["row"] for r in found if r["error"]]
    assert counts["errors"] == len(bad)
    assert bad in ([3, 4], [])  # a text where a number is wanted is an error, or a missing value that is warned of
    assert all(r["error"] or r["warnings"] for r in found if r["row"] in {3, 4})
    assert all(not r["error"] for r in found if r["row"] not in {3, 4})


def test_unmonitored_rows_are_recorded_and_count_nowhere(system, files, tmp_path):
    folder, expected = files
    seen = lambda: (system.api.get("/v1/deployments/bulk/drift")["totals"]["rows"], system.api.get("/v1/deployments/bulk/service-health")["totals"]["rows"])  # noqa: E731
    last = system.api.post("/v1/deployments/bulk/predictions", {"rows": [{"x": 0.5, "z": 1.0}]})["position"]
    system.api.get("/v1/deployments/bulk/drift", after=last)
    before = seen()
    assert batch.score(system.api, "bulk", folder / "rows.parquet", tmp_path / "out.parquet", rows=400, monitored=False) == {"rows": COUNT, "errors": 0}
    assert [r["prediction"] for r in read(tmp_path / "out.parquet")] == [p["prediction"] for p in expected]
    answer = system.api.call("POST", "/v1/deployments/bulk/predictions?monitored=false", {"rows": [{"x": 0.5, "z": 1.0}], "association_ids": ["kept-apart"]})
    position = system.api.post("/v1/deployments/bulk/actuals", {"actuals": [{"association_id": "kept-apart", "actual": "1"}]})["position"]
    system.api.get("/v1/deployments/bulk/drift", after=answer["position"])
    system.api.get("/v1/deployments/bulk/drift", after=position)
    assert seen() == before
    assert system.sql("SELECT role, count() AS n FROM predictions WHERE deployment = 'bulk' AND role != 'champion' GROUP BY role") == [{"role": "batch", "n": COUNT + 1}]
    receipt = system.api.get(f"/v1/predictions/{answer['request_id']}")["predictions"][0]
    assert (receipt["role"], receipt["actual"]["actual_class"]) == ("batch", "1")
    assert system.api.get("/v1/deployments/bulk/verify")["equal"]


def test_the_rows_of_a_query_are_predicted_and_a_broken_run_asks_it_once(system, files, tmp_path):
    log = f"http://127.0.0.1:{system.environment['CHAMPION_EVENTLOG_PORT']}/champion"
    output = tmp_path / "out.csv"
    file = batch.asked_of(log, "SELECT number / 40 - 1 AS x, number % 7 / 3 AS z FROM numbers(300)", output)
    assert batch.asked_of(log, "SELECT number / 40 - 1 AS x, number % 7 / 3 AS z FROM numbers(300)", output).stat().st_mtime_ns == file.stat().st_mtime_ns
    assert batch.score(system.api, "bulk", file, output) == {"rows": 300, "errors": 0}
    expected = system.api.post("/v1/deployments/bulk/predictions", {"rows": [{"x": k / 40 - 1, "z": k % 7 / 3} for k in range(300)]})
    assert [r["p_1"] for r in read(output)] == [p["probabilities"]["1"] for p in expected["predictions"]]
    with pytest.raises(DataError, match="nowhere"):
        batch.asked_of(log, "SELECT x FROM nowhere", output)


def test_answers_go_into_a_table_once_also_where_a_run_broke_off(system, files, tmp_path, monkeypatch):
    folder, expected = files
    url = f"http://writer:{writer_key(system.folder)}@127.0.0.1:{system.environment['CHAMPION_EVENTLOG_PORT']}/default"
    batch.score(system.api, "bulk", folder / "rows.parquet", tmp_path / "scored.parquet")
    with monkeypatch.context() as broken:
        pieces = batch.batches_of
        broken.setattr(batch, "batches_of", lambda file: itertools.chain(itertools.islice((b.slice(at, 300) for b in pieces(file) for at in range(0, len(b), 300)), 2), failing()))
        with pytest.raises(OSError, match="cable"):
            batch.into_table(url, "scored", tmp_path / "scored.parquet", "run-1")
    count = lambda: EventLog(url).rows("SELECT batch, count() AS n FROM default.scored GROUP BY batch ORDER BY batch")  # noqa: E731
    assert count() == [{"batch": "run-1", "n": 600}]
    for run in ("run-1", "run-1", "run-2"):
        assert batch.into_table(url, "scored", tmp_path / "scored.parquet", run) == {"rows": COUNT}
    assert count() == [{"batch": "run-1", "n": COUNT}, {"batch": "run-2", "n": COUNT}]
    rows = EventLog(url).rows("SELECT row, prediction FROM default.scored WHERE batch = 'run-1' ORDER BY row")
    assert [(r["row"], r["prediction"]) for r in rows] == [(k, p["prediction"]) for k, p in enumerate(expected)]
    for table in ("scored; DROP TABLE scored", "a.b.c", ""):
        with pytest.raises(DataError, match="table"):
            batch.into_table(url, table, tmp_path / "scored.parquet", "run-3")


def failing():
    raise OSError("the cable was pulled")
    yield


def test_a_query_is_predicted_into_a_table_by_one_command(system, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAMPION_URL", f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}")
    port = system.environment["CHAMPION_EVENTLOG_PORT"]
    url = f"http://writer:{writer_key(system.folder)}@127.0.0.1:{port}/default"
    done = CliRunner().invoke(main, ["predict", "bulk", "--query", "SELECT number / 40 AS x, 1.0 AS z FROM numbers(100)", "--from", f"http://127.0.0.1:{port}/champion", "--to", url, "--table", "answered", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {"rows": 100, "errors": 0, "output": "answered"}
    assert EventLog(url).rows("SELECT count() AS n, countIf(p_1 > 0.5) AS high FROM default.answered")[0]["n"] == 100
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    assert "go together" in CliRunner().invoke(main, ["predict", "bulk", "x.csv", "--to", url]).output + CliRunner().invoke(main, ["predict", "bulk", str(files[0] / "rows.csv"), "--to", url]).output


def test_line_breaks_inside_quotes_are_part_of_a_value(system, files, tmp_path):
    file = tmp_path / "notes.csv"
    file.write_text("x,z,note\n" + "".join(f'0.{k % 10},1,"line one of {k}\nline two"\n' for k in range(60_000)))
    assert batch.score(system.api, "bulk", file, tmp_path / "out.arrow") == {"rows": 60_000, "errors": 0}


def test_what_is_no_table_is_refused_by_its_name(system, files, tmp_path):
    odd = tmp_path / "rows.xlsx"
    odd.write_text("x")
    with pytest.raises(DataError):
        batch.score(system.api, "bulk", odd, tmp_path / "out.csv")
    with pytest.raises(DataError):
        batch.score(system.api, "bulk", files[0] / "rows.csv", tmp_path / "out.txt")
