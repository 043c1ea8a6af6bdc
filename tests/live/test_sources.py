"""Training from a ClickHouse query and from a file's URL, with groups and weights."""

import functools
import http.server
import threading

import pytest

from gateway.client import Refusal

QUERY = """SELECT number AS id, sin(number) AS x, cos(number * 7) AS z, intDiv(number, 20) AS shop, 1 + number % 3 AS weight,
if(x + cos(number * 13) > 0, 'yes', 'no') AS y FROM numbers(600)"""


@pytest.fixture
def files(tmp_path):
    """A web server of one folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_query_of_a_clickhouse_is_trained_on_with_groups_and_weights(system):
    url = f"http://default@127.0.0.1:{system.environment['CHAMPION_EVENTLOG_PORT']}/champion"
    body = {"source": url, "query": QUERY, "target": "y", "group": "shop", "weight": "weight", "exclude": ["id"], "mode": "quick"}
    project = system.api.post("/v1/projects", body)["project_id"]
    found = system.api.wait_for_project(project)
    assert found["state"] == "completed", found
    assert found["options"]["query"] == QUERY
    board = system.api.get(f"/v1/projects/{project}/leaderboard")
    assert "whole groups" in board["partition"]
    assert any("weight" in note for note in board["notes"])
    described = system.api.get(f"/v1/models/{board['models'][0]['model_id']}")
    assert sorted(i["name"] for i in described["inputs"]) == ["x", "z"]


def test_a_file_is_read_by_its_url(system, files):
    folder, url = files
    (folder / "rows.csv").write_text("\n".join(["x,y", *(f"{k % 17},{int(k % 17 + k % 5 > 10)}" for k in range(200))]))
    project = system.api.post("/v1/projects", {"source": f"{url}/rows.csv", "target": "y", "mode": "quick"})["project_id"]
    assert system.api.wait_for_project(project)["state"] == "completed"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"source": "{log}", "query": "SELEC 1"}, "unreadable_source"),
        ({"source": "{log}", "query": "SELECT * FROM nowhere"}, "unreadable_source"),
        ({"source": "http://127.0.0.1:9", "query": "SELECT 1"}, "unreadable_source"),
        ({"source": "s3://bucket/key", "query": "SELECT 1"}, "unsupported_source"),
        ({"source": "http://127.0.0.1:9/none.csv"}, "unreadable_source"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_with_its_reason(system, body, code):
    log = f"http://me:secret@127.0.0.1:{system.environment['CHAMPION_EVENTLOG_PORT']}"
    with pytest.raises(Refusal) as found:
        system.api.post("/v1/projects", {"target": "y", **body, "source": body["source"].format(log=log)})
    assert found.value.code == code
    assert "secret" not in str(found.value)


def test_a_password_in_a_source_is_kept_out_of_the_events(system, files):
    folder, url = files
    (folder / "more.csv").write_text("\n".join(["x,y", *(f"{k % 13},{int(k % 13 + k % 5 > 8)}" for k in range(100))]))
    source = url.replace("http://", "http://me:hush@") + "/more.csv"
    project = system.api.post("/v1/projects", {"source": source, "target": "y", "mode": "quick"})["project_id"]
    system.api.wait_for_project(project)
    assert system.api.get(f"/v1/projects/{project}")["options"]["source"] == source.replace(":hush", "")
    assert not system.sql("SELECT count() AS n FROM events WHERE position(payload, 'hush') > 0")[0]["n"]
