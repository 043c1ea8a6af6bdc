"""The loop with nobody touching it, on real streams: `make unattended`; its report is checked in.

A policy watches, retrains, soaks, promotes and refuses while a year goes by in chunks; every part is
killed once on the way. What is waited for between chunks is only that a training under way is over: in
life weeks are longer than trainings.
"""

import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import pytest

from gateway.client import Refusal
from gateway.demo import KNOWN_LATER, packaged, read_flights, thinned
from tests.support import start_system, stop

PARTS = ("worker", "gateway", "eventlog", "trainer", "broker")
RUNNING = {"queued", "analyzing", "training"}


@pytest.fixture
def system(tmp_path):
    found = start_system(tmp_path / "var")
    yield found
    stop(found.process)


def patient(call, seconds=60, also=0):
    """A call that is made again while a part is being started anew."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except Refusal as error:
            if error.status not in {0, 503, 504, also} or time.monotonic() > end:
                raise
            time.sleep(0.2)


def train(system, folder, table, target, **options):
    file = folder / f"{target}.parquet"
    pyarrow.parquet.write_table(table, file)
    project = system.api.create_project(file, target, **options)
    assert system.api.wait_for_project(project)["state"] == "completed"
    return system.api.get(f"/v1/projects/{project}/leaderboard")["models"][0]


def live(system, name, chunks, rest):
    """Requests and their outcomes chunk by chunk, each part killed once; answers when each was killed."""
    struck = {}
    moments = {int(len(chunks) * (k + 1) / (len(PARTS) + 1)): part for k, part in enumerate(PARTS)}
    for number, (rows, ids, times, facts) in enumerate(chunks):
        if number in moments:
            part = moments[number]
            os.kill(json.loads((system.folder / "run.json").read_text())[part]["pid"], signal.SIGKILL)
            struck[part] = times[0]
        for at in range(0, len(rows), 500):
            body = {"rows": rows[at : at + 500], "association_ids": ids[at : at + 500], "timestamps": times[at : at + 500]}
            answer = patient(lambda body=body: system.api.call("POST", f"/v1/deployments/{name}/predictions", body, headers={"Idempotency-Key": f"{name}-{body['association_ids'][0]}"}))
            assert answer["recorded"]
        position = patient(lambda facts=facts: system.api.post(f"/v1/deployments/{name}/actuals", {"actuals": facts}))["position"] if facts else ""
        patient(lambda position=position: system.api.get(f"/v1/deployments/{name}", after=position))
        until_looked(system, rest)
        while any(j["kind"] == "retraining" and j["state"] == "queued" for j in patient(lambda: system.api.items(f"/v1/deployments/{name}/jobs"))):
            time.sleep(0.3)
    return struck


def until_looked(system, rest):
    """Rest until the steward has begun and ended two looks at what is there now: what it then does is no matter of this machine's speed."""
    for _ in range(2):
        now = datetime.now(UTC).isoformat()
        end = time.monotonic() + 20 * rest  # it may just have been killed
        while time.monotonic() < end:
            beats = patient(lambda: system.sql("SELECT max(JSONExtractString(detail, 'steward_looked_at')) AS at FROM heartbeats WHERE part = 'worker'"))
            if beats[0]["at"] > now:
                break
            time.sleep(0.2)


def told(system, name):
    """The audit trail, oldest first, as sentences."""
    found = []
    for event in system.api.get("/v1/events", deployment=name, order="oldest", limit=1000)["items"]:
        fact = event["payload"]
        if event["type"] == "policy_run_started":
            found.append(f"policy {fact['policy']} began run {fact['run_id']}: {fact['evidence'].get('measure', 'by hand')} = {fact['evidence'].get('value')} in {fact['evidence'].get('window')}")
        elif event["type"] == "retraining_finished":
            found.append(f"retrained on {fact['training_set'].get('rows')} rows: model {fact['model_id'][:12]} {fact.get('error', '')}")
        elif event["type"] in {"champion_changed", "challenger_removed", "policy_run_looked", "policy_run_finished"}:
            found.append(f"{event['type'].replace('_', ' ')}: {fact.get('reason') or fact.get('sentence')}")
    return found


def report(name, figures):
    """Kept where REPORT says, and printed."""
    print(json.dumps({name: figures}, indent=1, default=str))
    if os.environ.get("REPORT"):
        file = Path(os.environ["REPORT"])
        whole = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**whole, name: figures}, indent=1, default=str) + "\n")


def score(system, name, metric, model_id="", start="", end=""):
    totals = system.api.get(f"/v1/deployments/{name}/accuracy", model_id=model_id, **{"from": start, "to": end})["totals"]
    return totals["metrics"][metric]["value"], totals["matched"]


@pytest.mark.unattended
@pytest.mark.timeout(1800)
def test_the_weather_whose_labels_change_meaning(system, tmp_path):
    table = pyarrow.csv.read_csv(packaged("vega_datasets", "_data", "seattle-weather.csv"))
    day = pc.replace_substring(table.column("date"), "/", "-")
    table = table.set_column(table.column_names.index("date"), "date", day)
    first = train(system, tmp_path, table.filter(pc.less(day, "2014-01-01")), "weather", timestamp="date")
    system.api.post("/v1/deployments", {"name": "weather", "model_id": first["model_id"]})
    policy = {
        "trigger": {"kind": "accuracy", "measure": "accuracy.accuracy", "below": 0.6, "window": "60d", "least_rows": 40},
        "data": {"window": "sliding", "span": "200d", "least_rows": 120},
        "action": "replace",
        "minimum_interval": "1s",
        "gate": {"soak_rows": 100},
    }
    system.api.call("PUT", "/v1/deployments/weather/policies/keep-up", policy)
    later = table.filter(pc.greater_equal(day, "2014-01-01")).to_pylist()
    chunks = []
    for at in range(0, len(later), 14):
        part = later[at : at + 14]
        rows = [{k: v for k, v in row.items() if k not in {"weather", "date"}} for row in part]
        ids, times = [row["date"] for row in part], [row["date"] + "T12:00:00Z" for row in part]
        facts = [{"association_id": row["date"], "actual": row["weather"], "timestamp": (datetime.fromisoformat(row["date"]) + timedelta(days=1)).isoformat()} for row in part]
        chunks.append((rows, ids, times, facts))
    struck = live(system, "weather", chunks, rest=2.5)
    runs = [r for p in system.api.items("/v1/deployments/weather/policies") for r in p["runs"]]
    served, matched = score(system, "weather", "accuracy", start="2015-01-01")
    stayed, same = score(system, "weather", "accuracy", first["model_id"], start="2015-01-01")
    spring = {m: score(system, "weather", "accuracy", m, start="2015-04-01")[0] for m in ("", first["model_id"])}
    report("weather", {"accuracy_2015": {"first_model": stayed, "served": served, "days": matched}, "accuracy_since_april_2015": {"first_model": spring[first["model_id"]], "served": spring[""]}, "killed": struck, "runs": [(r["outcome"], r.get("sentence")) for r in runs], "trail": told(system, "weather")})
    assert matched == same == 365
    assert stayed < 0.55
    assert served > stayed + 0.15
    assert spring[""] > 0.7
    assert "promoted" in {r["outcome"] for r in runs}
    assert set(struck) == set(PARTS)
    assert system.api.get("/v1/deployments/weather/verify")["equal"]


@pytest.mark.unattended
@pytest.mark.timeout(2400)
def test_the_flights_whose_outcome_drifts(system, tmp_path):
    whole = read_flights()
    month = whole.column("month")
    first = train(system, tmp_path, thinned(whole.filter(pc.less_equal(month, 6)), 20_000), "late", timestamp="time_hour", association_id="flight_id", mode="quick")
    system.api.post("/v1/deployments", {"name": "flights", "model_id": first["model_id"], "association_id": "flight_id", "timestamp": "time_hour"})
    policy = {
        "trigger": {"kind": "accuracy", "measure": "accuracy.ece", "above": 0.06, "window": "21d", "least_rows": 1000},
        "data": {"window": "sliding", "span": "60d"},
        "action": "replace",
        "mode": "quick",
        "minimum_interval": "1s",
        "gate": {"soak_rows": 2000, "rollback_rows": 3000, "rollback_looks": 6},
    }
    system.api.call("PUT", "/v1/deployments/flights/policies/keep-up", policy)
    later = thinned(whole.filter(pc.greater(month, 6)), 30_000)
    late, hour = later.column("late").to_pylist(), later.column("time_hour")
    inputs = later.drop_columns(KNOWN_LATER)
    rows = inputs.set_column(inputs.column_names.index("time_hour"), "time_hour", pc.cast(hour, pa.string())).to_pylist()
    chunks, size = [], 1000
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        facts = [{"association_id": r["flight_id"], "actual": y, "timestamp": (datetime.fromisoformat(r["time_hour"]) + timedelta(hours=12)).isoformat()} for r, y in zip(part, late[at : at + size], strict=True) if y is not None]
        chunks.append((part, [r["flight_id"] for r in part], [r["time_hour"] for r in part], facts))
    struck = live(system, "flights", chunks, rest=3.0)
    runs = [r for p in system.api.items("/v1/deployments/flights/policies") for r in p["runs"]]
    promoted = system.api.get("/v1/events", deployment="flights", type="champion_changed", order="oldest")["items"]
    # what was gained while the outcome stayed where it had drifted to, and what was lost when it went back in December
    after = {f"{start} to {end}": {who: score(system, "flights", "log_loss", m, start, end) for who, m in (("served", ""), ("first_model", first["model_id"]))} for start, end in (("2013-11-01", "2013-12-01"), ("2013-12-01", "2014-01-01"))}
    # a hasty policy: a model of two days is worse, and is refused
    hasty = {"data": {"window": "sliding", "span": "2d"}, "action": "replace", "mode": "quick", "gate": {"soak_rows": 100}}
    system.api.call("DELETE", "/v1/deployments/flights/policies/keep-up")
    system.api.call("PUT", "/v1/deployments/flights/policies/hasty", hasty)
    patient(lambda: system.api.post("/v1/deployments/flights/policies/hasty/runs"), 300, also=409)  # the other's run ends with it
    tail = [(p, [f"again-{i}" for i in ids], times, [{**f, "association_id": f"again-{f['association_id']}"} for f in facts]) for p, ids, times, facts in chunks[-8:]]
    tail = [([{**r, "flight_id": i} for r, i in zip(p, ids, strict=True)], ids, times, facts) for p, ids, times, facts in tail]
    struck = live(system, "flights", tail, rest=3.0) | struck
    end = time.monotonic() + 60
    while True:
        refused = [r for p in system.api.items("/v1/deployments/flights/policies") if p["name"] == "hasty" for r in p["runs"]]
        if refused[0]["outcome"] != "under way" or time.monotonic() > end:
            break
        time.sleep(0.5)
    report("flights", {"log_loss": after, "killed": struck, "promotions": len(promoted), "runs": [(r["outcome"], r.get("sentence")) for r in runs], "hasty": refused[0], "trail": told(system, "flights")})
    assert promoted
    assert set(struck) == set(PARTS)
    november = after["2013-11-01 to 2013-12-01"]
    assert november["served"][1] == november["first_model"][1] > 1000
    assert november["served"][0] < november["first_model"][0]
    assert refused[0]["outcome"] == "refused", refused[0]
    assert system.api.get("/v1/deployments/flights/verify")["equal"]
