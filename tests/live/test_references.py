"""Drift against another past than the training data; what predictions are worth."""

import datetime as dt
import json
import random
import re
import urllib.parse

import numpy as np
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.client import Refusal
from tests.support import deploy_small

D = "/v1/deployments/weekly"
MONDAY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
DAYS, A_DAY = 70, 150


@pytest.fixture(scope="module")
def weekly(system, tmp_path_factory):
    """Ten weeks whose weekends are another world: x around 3 instead of 0."""
    deploy_small(system, tmp_path_factory.mktemp("weekly"), names=("weekly",))
    rng = random.Random(3)
    said, facts = [], []
    for day in range(DAYS):
        moment = MONDAY + dt.timedelta(days=day)
        rows = [{"x": rng.gauss(3 if moment.weekday() >= 5 else 0, 1), "z": rng.gauss(0, 1)} for _ in range(A_DAY)]
        ids = [f"w{day}-{k}" for k in range(A_DAY)]
        answer = system.api.post(D + "/predictions", {"rows": rows, "association_ids": ids, "timestamps": [(moment + dt.timedelta(minutes=k)).isoformat() for k in range(A_DAY)]})
        said.extend(p["prediction"] for p in answer["predictions"])
        facts.extend({"association_id": i, "actual": int(r["x"] + rng.gauss(0, 0.5) > 0)} for i, r in zip(ids, rows, strict=True))
    position = system.api.post(D + "/actuals", {"actuals": facts})["position"]
    system.api.get(D, after=position)  # outcomes can be read a moment before their cycle's drift is saved
    assert system.settle("weekly", 2 * DAYS * A_DAY) == 2 * DAYS * A_DAY
    return said, [str(f["actual"]) for f in facts]


def day(number):
    return (MONDAY + dt.timedelta(days=number)).isoformat().replace("+00:00", "Z")


def status(found):
    return {f["name"]: f["status"] for f in found["totals"]["features"]}


def bins(found, side):
    return {f["name"]: [b[side] for b in f["bins"]] for f in [*found["totals"]["features"], found["totals"]["prediction"]]}


def test_a_weekend_is_measured_by_weekends(system, weekly):
    del weekly
    weekend = {"from": day(68), "to": day(70), "bucket": "1d"}
    assert status(system.api.get(D + "/drift", **weekend)) == {"x": "failing", "z": "passing"}
    found = system.api.get(D + "/drift", **weekend, reference="weekdays")
    assert status(found) == {"x": "passing", "z": "passing"}
    assert (found["reference"]["kind"], found["reference"]["from"], found["reference"]["to"]) == ("weekdays", day(12), day(68))
    assert [b["status"] for b in found["buckets"]] == ["passing", "passing"]
    weekends = [system.api.get(D + "/drift", **{"from": day(d), "to": day(d + 2)}) for d in range(12, 68, 7)]
    expected = {name: np.sum([bins(w, "production")[name] for w in weekends], axis=0).tolist() for name in ("x", "z", "prediction")}
    assert bins(found, "reference") == expected
    assert sum(expected["x"]) == 8 * 2 * A_DAY


def test_a_past_window_is_a_reference_and_its_numbers_are_those_of_that_window(system, weekly):
    del weekly
    week = {"from": day(63), "to": day(70), "bucket": "7d"}
    found = system.api.get(D + "/drift", **week, reference=f"{day(56)}..{day(63)}")
    before = system.api.get(D + "/drift", **{"from": day(56), "to": day(63), "bucket": "7d"})
    assert bins(found, "reference") == bins(before, "production")
    assert found["status"] == "passing"
    assert status(system.api.get(D + "/drift", **week))["x"] == "failing"
    a, b = (np.array(bins(found, side)["x"], dtype=float) for side in ("reference", "production"))
    merge = lambda c: np.concatenate([[c[0] + c[1]], c[2:-3], [c[-3] + c[-2]], [c[-1]]])  # noqa: E731
    p, q = ((merge(c) + 0.5) / (c.sum() + 0.5 * (len(c) - 2)) for c in (a, b))
    assert found["totals"]["features"][0]["psi"] == pytest.approx(float(((q - p) * np.log(q / p)).sum()), rel=1e-12)
    assert sum(system.sql(found["reference"]["sql"])[0]["counts"]) == 3 * A_DAY  # its SELECT gives a day's rows of x, z and the prediction
    segment = system.api.get(D + "/drift", **week, reference=f"{day(56)}..{day(63)}", segment="x>=2")
    assert 0 < sum(bins(segment, "reference")["x"]) < 7 * A_DAY


def test_other_bins_and_thresholds_derive_the_history_anew(system, weekly):
    del weekly
    asked = {"from": day(0), "to": day(14), "bucket": "1d"}
    found = system.api.get(D + "/drift", **asked, bins="4", warning="0.02", failing="6")
    rows = system.sql("SELECT toDate(occurred_at) AS day, features_num['x'] AS x FROM predictions WHERE deployment = 'weekly' AND role = 'champion' AND occurred_at < '2024-01-15' ORDER BY day")
    x = found["totals"]["features"][0]
    rng = random.Random(0)
    trained = np.array([float(f"{x:.4f}") for x, _ in [(rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(400)]])  # as deploy_small wrote its file
    assert len(trained) == sum(b["reference"] for b in x["bins"])
    assert x["edges"] == pytest.approx(np.quantile(trained, [0.25, 0.5, 0.75]).tolist(), rel=1e-12)
    lines = [-np.inf, *x["edges"], np.inf]
    for bucket in found["buckets"]:
        of_day = [r["x"] for r in rows if bucket["at"].startswith(r["day"])]
        p, q = ((np.histogram(values, lines)[0] + 0.5) / (len(values) + 0.5 * 5) for values in (trained, of_day))
        p, q = (np.append(s, 1 - s.sum()) for s in (p, q))
        assert bucket["features"]["x"] == pytest.approx(float(((q - p) * np.log(q / p)).sum()), rel=1e-9)
    assert (found["thresholds"], x["status"]) == ({"warning": 0.02, "failing": 6.0}, "warning")
    assert status(system.api.get(D + "/drift", **asked))["x"] == "failing"
    run = CliRunner().invoke(main, ["drift", "weekly", "--bins", "4", "--to", day(14), "--json"], env={"CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"})
    assert run.exit_code == 0, run.output
    assert json.loads(run.output)["totals"]["features"][0]["bins"] == x["bins"]


@pytest.mark.parametrize("asked", [{"bins": "1"}, {"bins": "many"}, {"bins": "101"}, {"warning": "0"}, {"warning": "0.3"}, {"failing": "nan"}, {"failing": "inf"}, {"warning": "x"}])
def test_a_look_that_is_none_is_refused(system, weekly, asked):
    del weekly
    with pytest.raises(Refusal) as refused:
        system.api.get(D + "/drift", **asked)
    assert refused.value.status == 422


def test_where_there_is_nothing_to_compare_with_nothing_is_said(system, weekly):
    del weekly
    found = system.api.get(D + "/drift", **{"from": day(0), "to": day(7), "bucket": "7d"}, reference="weekdays")
    assert (found["status"], found["totals"]["features"][0]["psi"]) == ("unknown", None)
    assert {f["quality"]["status"] for f in found["totals"]["features"]} == {"unknown"}


@pytest.mark.parametrize(("reference", "window"), [("weekdays", {}), ("yesterday", {}), (f"{day(5)}..{day(3)}", {}), (day(5), {}), ("..", {}), ("2024-01-01..1e99", {})])
def test_a_reference_that_is_none_is_refused(system, weekly, reference, window):
    del weekly
    with pytest.raises(Refusal) as refused:
        system.api.get(D + "/drift", **window, reference=reference)
    assert refused.value.status == 422


def charts(system, page):
    """The figures of a page by name."""
    found = re.findall(r'<script type="application/json" data-chart="(\w+)">(.*?)</script>', system.api.text(page), re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def test_the_pictures_show_what_the_tables_say(system, weekly):
    del weekly
    by = "sql:if(features_num['x'] >= 2, 'high', 'low')"
    shown = charts(system, "/deployments/weekly/explore?" + urllib.parse.urlencode({"by": by, "bucket": "7d"}))
    assert {"drift", "drifttime", "health", "quality", "fairness", "estimated", "confusion", "calibration"} <= shown.keys()
    accuracy = system.api.get(D + "/accuracy", bucket="7d")
    assert shown["confusion"]["data"][0]["text"] == [row for row in accuracy["by_class"]["confusion"]["actual_by_predicted"] if sum(row)]
    points = shown["calibration"]["data"][1]
    assert list(zip(points["x"], points["y"], strict=True)) == [(g["predicted"], g["actual"]) for g in accuracy["calibration"]]
    said = system.sql("SELECT count() AS rows, avg(predicted_value) AS predicted, avg(actual_class = '1') AS actual FROM outcomes WHERE deployment = 'weekly' AND role = 'champion' GROUP BY least(intDiv(predicted_value * 10, 1), 9) AS k ORDER BY k")
    assert [{k: g[k] for k in ("rows", "predicted", "actual")} for g in accuracy["calibration"]] == [{k: pytest.approx(v) for k, v in row.items()} for row in said]
    estimates = dict(zip(shown["estimated"]["data"][1]["y"], shown["estimated"]["data"][1]["x"], strict=True))
    assert estimates["log_loss"] == pytest.approx(accuracy["totals"]["metrics"]["log_loss"]["value"])
    groups = system.api.get(D + "/fairness", by=by)
    ratios = {bar["name"]: dict(zip(bar["x"], bar["y"], strict=True))["proportional parity"] for bar in shown["fairness"]["data"]}
    assert ratios == {row["group"]: row["ratio"] for row in groups["metrics"]["proportional_parity"]}
    moved = {i["name"]: i["problems"]["out_of_range"] for i in system.api.get(D + "/data-quality")["inputs"]}
    bars = next(bar for bar in shown["quality"]["data"] if bar["name"] == "out of range")
    assert dict(zip(bars["y"], bars["x"], strict=True))["x"] == pytest.approx(100 * (moved["x"]["production"] - moved["x"]["reference"]))
    page = charts(system, "/deployments/weekly")
    rival = system.api.get(D + "/comparison")["challengers"][0]
    point = page["comparison"]["data"][0]
    assert point["x"] == [pytest.approx(sum(rival["metrics"]["log_loss"]["interval"]) / 2)]
    apart = system.api.get(D + "/disagreements")
    most = next(i for i in apart["inputs"] if i["groups"])
    assert charts(system, f"/deployments/weekly/disagreements/{rival['model_id']}")["disagreement"]["data"][0]["x"][0] == pytest.approx(most["groups"][0]["mean"])


ASKED = {"health": [], "drift": [], "quality": [], "accuracy": [], "compare": [], "disagree": [], "fairness": ["--by", "sql:if(features_num['x'] >= 2, 'high', 'low')"], "metrics": ["--set", "right", "--value", "avg(predicted_class = actual_class)"]}


@pytest.mark.parametrize("command", ASKED)
def test_each_command_draws_its_numbers_and_gives_their_selects(system, weekly, command):
    del weekly
    environment = {"CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}", "COLUMNS": "220"}
    asked = [command, "weekly", *ASKED[command], "--bucket", "7d"]
    drawn = CliRunner().invoke(main, asked, env=environment)
    assert drawn.exit_code == 0, drawn.output
    assert command == "quality" or any(block in drawn.output for block in "▂▃▄▅▆▇█─")
    told = CliRunner().invoke(main, [*asked, "--sql"], env=environment)
    assert told.exit_code == 0, told.output
    selects = told.output.strip().removesuffix(";").split(";\n\n")
    assert selects
    for select in selects:
        system.sql(select)


def test_drift_is_weighed_by_importance(system, weekly):
    del weekly
    found = system.api.get(D + "/drift", **{"from": day(0), "to": day(14), "bucket": "7d"})
    by_name = {f["name"]: f for f in found["totals"]["features"]}
    assert (by_name["x"]["quadrant"], by_name["z"]["quadrant"]) == ("important_drifted", "minor_steady")
    assert (found["status"], found["weighed_status"]) == ("failing", "failing")


def test_what_predictions_are_worth(system, weekly, tmp_path):
    said, actual = weekly
    file = tmp_path / "payoff.json"
    file.write_text(json.dumps({"0": {"1": -5}, "1": {"0": -100, "1": 50}}))
    run = CliRunner().invoke(main, ["compare", "weekly", "--payoff", str(file), "--json"], env={"CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"})
    assert run.exit_code == 0, run.output
    worth = {("0", "0"): 0, ("0", "1"): -5, ("1", "0"): -100, ("1", "1"): 50}
    mine = np.array([worth[pair] for pair in zip(actual, said, strict=True)])
    rival = json.loads(run.output)["challengers"][0]
    theirs = system.sql("SELECT association_id, predicted_class FROM predictions WHERE deployment = 'weekly' AND role = 'challenger'")
    theirs = {r["association_id"]: r["predicted_class"] for r in theirs}
    other = np.array([worth[(a, theirs[f"w{k // A_DAY}-{k % A_DAY}"])] for k, a in enumerate(actual)])
    found = rival["payoff"]
    assert found["champion"] == {"total": mine.sum(), "per_row": pytest.approx(mine.mean()), "rows": len(mine)}
    assert found["challenger"]["total"] == other.sum()
    assert found["gain"]["total"] == other.sum() - mine.sum()
    times = np.arange(len(mine)) // A_DAY * 1440 + np.arange(len(mine)) % A_DAY
    places = np.searchsorted(np.linspace(times.min(), times.max(), 6)[1:-1], times, side="right")
    blocks = [(other - mine)[places == k].mean() for k in range(5)]
    half = 2.7764451 * np.std(blocks, ddof=1) / np.sqrt(5)
    assert found["interval_per_row"] == pytest.approx([np.mean(blocks) - half, np.mean(blocks) + half], rel=1e-6)
    assert system.api.get(D + "/accuracy", bucket="30d")["totals"]["payoff"]["total"] == mine.sum()


@pytest.mark.parametrize("payoff", [5, {"0": 1}, {"2": {"0": 1}}, {"0": {"no": 1}}, {"0": {"1": "much"}}, {"0": {"1": True}}])
def test_a_payoff_that_is_none_is_refused(system, weekly, payoff):
    del weekly
    with pytest.raises(Refusal) as refused:
        system.api.call("PATCH", D, {"payoff": payoff})
    assert (refused.value.status, refused.value.code) == (422, "wrong_payoff")


def test_without_a_payoff_nothing_is_said_of_worth(system, weekly):
    del weekly
    system.api.call("PATCH", D, {"payoff": None})
    assert system.api.get(D + "/accuracy", bucket="30d")["totals"]["payoff"] is None


def test_a_reference_holds_what_the_champions_before_answered(system, tmp_path_factory):
    deploy_small(system, tmp_path_factory.mktemp("heirs"), names=("heirs",), shadows=())
    project = next(p["project_id"] for p in system.api.items("/v1/projects") if p["target"] == "y")
    champion = system.api.get("/v1/deployments/heirs")["champion"]["model_id"]
    heir = next(m["model_id"] for m in system.api.get(f"/v1/projects/{project}/leaderboard")["models"] if m["model_id"] != champion and m["blueprint"] != "constant")
    rng = random.Random(5)

    def ask(first, shift):
        rows = [{"x": rng.gauss(shift, 1), "z": rng.gauss(0, 1)} for _ in range(400)]
        times = [(MONDAY + dt.timedelta(days=first, minutes=k)).isoformat() for k in range(400)]
        return system.api.post("/v1/deployments/heirs/predictions", {"rows": rows, "timestamps": times})["position"]

    ask(0, 2)
    system.api.call("PUT", "/v1/deployments/heirs/champion", {"model_id": heir, "reason": "its time has come"})
    system.api.get("/v1/deployments/heirs", after=ask(7, 2))
    week = {"from": day(7), "to": day(8), "bucket": "1d", "reference": f"{day(0)}..{day(1)}"}
    found = system.api.get("/v1/deployments/heirs/drift", **week)
    assert found["model_id"] == heir
    assert {sum(counts) for counts in bins(found, "reference").values()} == {sum(counts) for counts in bins(found, "production").values()} == {400}
    assert status(found) == {"x": "passing", "z": "passing"}
    assert status(system.api.get("/v1/deployments/heirs/drift", **{**week, "reference": ""}))["x"] == "failing", "the training data lie elsewhere"
    recut = system.api.get("/v1/deployments/heirs/drift", **week, bins=4)
    assert {sum(counts) for counts in bins(recut, "reference").values()} == {400}
