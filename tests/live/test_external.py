"""Models that predict elsewhere: handed in, watched, joined and compared like any other."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss, roc_auc_score

from gateway.cli import main
from gateway.client import Refusal
from tests.live.wire import call
from tests.support import deploy_small

D = "/v1/deployments/elsewhere"
RNG = np.random.default_rng(5)


def made(count, shift=0.0):
    x, z = RNG.normal(shift, 1, count), RNG.normal(0, 1, count)
    y = (x * x + z + RNG.normal(0, 0.5, count) > 1).astype(int)
    return x, z, y


@pytest.fixture(scope="module")
def forest():
    x, z, y = made(3000)
    return RandomForestClassifier(60, min_samples_leaf=20, random_state=0, n_jobs=1).fit(np.column_stack([x, z]), y)


@pytest.fixture(scope="module")
def elsewhere(system, forest, tmp_path_factory):
    """A scikit-learn forest that never comes here; only what it said of 2,000 rows."""
    folder = tmp_path_factory.mktemp("elsewhere")
    x, z, y = made(2000)
    said = forest.predict_proba(np.column_stack([x, z]))[:, 1]
    reference = folder / "reference.csv"
    pyarrow.csv.write_csv(pa.table({"order": [f"o{k}" for k in range(2000)], "x": x, "z": z, "y": y, "p": said}), reference)
    run = CliRunner().invoke(main, ["register", str(reference), "--target", "y", "--prediction", "p", "--name", "forest", "--association-id", "order", "--json"], env={"CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"})
    assert run.exit_code == 0, run.output
    found = json.loads(run.output)
    system.api.post("/v1/deployments", {"name": "elsewhere", "model_id": found["model_id"], "association_id": "order"})
    deploy_small(system, folder, names=("at-home",), shadows=())
    return found, y, said


def test_what_it_said_of_its_reference_is_its_base_line(system, elsewhere):
    found, y, said = elsewhere
    assert (found["task"], found["family"], found["rows"]) == ("binary", "external", 2000)
    assert found["holdout"] == pytest.approx(log_loss(y, said), rel=1e-9)
    model = system.api.get(f"/v1/models/{found['model_id']}")
    assert [i["name"] for i in model["inputs"]] == ["x", "z"]
    assert model["metrics"]["roc_auc"] == pytest.approx(roc_auc_score(y, said), rel=1e-12)
    assert "predicts elsewhere" in " ".join(system.api.get(f"/v1/models/{found['model_id']}/describe")["sentences"])


def test_its_predictions_are_recorded_joined_and_watched_and_a_model_here_can_challenge_it(system, forest, elsewhere, tmp_path):
    del elsewhere
    rival = next(m["model_id"] for m in system.api.items("/v1/models") if m["blueprint"] == "linear" and m["target"] == "y")
    system.api.post(D + "/challengers", {"model_id": rival})
    x, z, y = made(3000, shift=1.0)
    said = forest.predict_proba(np.column_stack([x, z]))[:, 1]
    ids = [f"n{k}" for k in range(3000)]
    file = tmp_path / "july.parquet"
    pyarrow.parquet.write_table(pa.table({"order": ids, "x": x, "z": z, "p": said}), file)
    run = CliRunner().invoke(main, ["report", "elsewhere", str(file), "--prediction", "p", "--json"], env={"CHAMPION_URL": f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"})
    assert (run.exit_code, json.loads(run.output)) == (0, {"rows": 3000})
    position = system.api.post(D + "/actuals", {"actuals": [{"association_id": i, "actual": int(v)} for i, v in zip(ids, y, strict=True)]})["position"]
    system.api.get(D, after=position)  # outcomes can be read a moment before their cycle's drift is saved
    assert system.settle("elsewhere", 6000) == 6000
    accuracy = system.api.get(D + "/accuracy", bucket="1d")["totals"]
    assert accuracy["matched"] == 3000
    assert accuracy["metrics"]["log_loss"]["value"] == pytest.approx(log_loss(y, said), rel=1e-9)
    assert accuracy["metrics"]["roc_auc"]["value"] == pytest.approx(roc_auc_score(y, said), rel=1e-9)
    status = {f["name"]: f["status"] for f in system.api.get(D + "/drift", bucket="1d")["totals"]["features"]}
    assert (status["x"], status["z"]) == ("failing", "passing")
    roles = system.sql("SELECT role, model_id, count() AS n FROM predictions WHERE deployment = 'elsewhere' GROUP BY role, model_id ORDER BY role")
    assert [(r["role"], r["n"]) for r in roles] == [("challenger", 3000), ("champion", 3000)]
    assert system.api.get(D + "/verify")["equal"]


@pytest.mark.parametrize(("rows", "said", "code"), [
    ([{"x": 1, "z": 1}], [1.2], "wrong_prediction"),
    ([{"x": 1, "z": 1}], ["0.5"], "wrong_prediction"),
    ([{"x": 1, "z": 1}], [True], "wrong_prediction"),
    ([{"x": 1, "z": 1}], [None], "wrong_prediction"),
    ([{"x": 1, "z": 1}], [{"0": 0.5, "1": 0.6}], "wrong_prediction"),
    ([{"x": 1, "z": 1}], [{"0": 0.5, "2": 0.5}], "wrong_prediction"),
    ([{"x": 1, "z": 1}], [0.5, 0.5], "wrong_length"),
    ([{"x": 1, "z": 1}], None, "missing_field"),
    ([{"x": "many", "z": 1}], [0.5], "wrong_type"),
    ([], [], "no_rows"),
])  # fmt: skip
def test_what_cannot_be_a_prediction_is_refused(system, elsewhere, rows, said, code):
    del elsewhere
    status, answer, _ = call(system, "POST", D + "/predictions/external", json.dumps({"rows": rows, "predictions": said}).encode())
    assert (status, answer["error"]["code"]) == (422, code)


def test_probabilities_by_class_are_the_same_as_the_positive_ones(system, elsewhere):
    del elsewhere
    body = {"rows": [{"x": 1, "z": 2}, {"x": 1, "z": 2}], "predictions": [0.75, {"0": 0.25, "1": 0.75}]}
    answer = system.api.post(D + "/predictions/external", body)
    first, second = answer["predictions"]
    assert first["probabilities"] == second["probabilities"] == {"0": 0.25, "1": 0.75}
    assert answer["recorded"] is True


def test_nobody_asks_it_here_and_nobody_tells_a_model_here_what_it_said(system, elsewhere):
    found = elsewhere[0]
    for path, body in [
        (D + "/predictions", [{"x": 1, "z": 1}]),
        ("/v1/deployments/at-home/predictions/external", {"rows": [{"x": 1, "z": 1}], "predictions": [0.5]}),
    ]:
        status, answer, _ = call(system, "POST", path, json.dumps(body).encode())
        assert (status, answer["error"]["code"]) in {(409, "scored_elsewhere"), (409, "scored_here")}
    window = {"from": "2020-01-01", "to": "2030-01-01"}
    for method, path, body in [
        ("POST", "/challengers", {"model_id": found["model_id"]}),
        ("POST", "/replays", {"model_id": found["model_id"], **window}),
        ("PUT", "/champion", {"model_id": found["model_id"], "reason": "r"}),
        ("PUT", "/routes", {"routes": [{"model_id": found["model_id"], "share": 0.1}]}),
    ]:
        with pytest.raises(Refusal) as refused:
            system.api.call(method, "/v1/deployments/at-home" + path, body)
        assert (refused.value.status, refused.value.code) == (422, "scored_elsewhere"), path


def test_nothing_that_acts_on_an_answer_can_be_set_where_the_answer_was_given_elsewhere(system, elsewhere):
    del elsewhere
    here = next(m["model_id"] for m in system.api.items("/v1/models") if m["blueprint"] == "linear" and m["target"] == "y")
    rule = {"name": "unsure", "trigger": {"kind": "uncertain_prediction", "lower": 0.4, "upper": 0.6}, "action": {"kind": "none"}}
    for path, body in [("/routes", {"routes": [{"model_id": here, "share": 0.1}]}), ("/humility", {"rules": [rule]})]:
        with pytest.raises(Refusal) as refused:
            system.api.call("PUT", D + path, body)
        assert (refused.value.status, refused.value.code) == (422, "scored_elsewhere"), path


def test_its_snippet_hands_in_a_prediction(system, elsewhere):
    del elsewhere
    url = f"http://127.0.0.1:{system.environment['CHAMPION_PORT']}"
    for lang, command in (("python", [sys.executable, "-c"]), ("curl", ["bash", "-c"])):
        run = CliRunner().invoke(main, ["snippet", "elsewhere", "--lang", lang], env={"CHAMPION_URL": url})
        said = subprocess.run([*command, run.output], capture_output=True, text=True, check=True).stdout
        assert "probabilities" in said, said


def test_its_pages_say_that_it_predicts_elsewhere(system, elsewhere):
    page = call(system, "GET", f"/models/{elsewhere[0]['model_id']}", parse=False)[1].decode()
    assert "predicts elsewhere" in page
    page = call(system, "GET", "/deployments/elsewhere", parse=False)[1].decode()
    assert "/predictions/external" in page
    assert "no rule here could act" in page


def register(system, folder, table, **fields):
    pyarrow.csv.write_csv(table, folder / "t.csv")
    form = [*fields.items(), ("file", ("t.csv", (folder / "t.csv").read_bytes(), "text/csv"))]
    return system.api.call("POST", "/v1/models/external", form=form)


def test_values_and_many_classes(system, tmp_path):
    x = RNG.normal(0, 1, 500)
    price = 3 * x + RNG.normal(0, 1, 500)
    found = register(system, tmp_path, pa.table({"x": x, "price": price, "said": 3 * x}), target="price", prediction="said")
    assert found["task"] == "regression"
    system.api.post("/v1/deployments", {"name": "priced-elsewhere", "model_id": found["model_id"]})
    assert system.api.post("/v1/deployments/priced-elsewhere/predictions/external", {"rows": [{"x": 1}], "predictions": [3.5]})["predictions"][0]["prediction"] == 3.5
    kinds = np.array(["ale", "bock", "stout"])[np.digitize(x, [-0.5, 0.5])]
    shares = {f"p_{k}": np.where(kinds == k, 0.8, 0.1) for k in ("ale", "bock", "stout")}
    found = register(system, tmp_path, pa.table({"x": x, "kind": kinds, **shares}), target="kind", prediction="p_")
    assert found["task"] == "multiclass"
    system.api.post("/v1/deployments", {"name": "kinds-elsewhere", "model_id": found["model_id"]})
    answer = system.api.post("/v1/deployments/kinds-elsewhere/predictions/external", {"rows": [{"x": 1}], "predictions": [{"ale": 0.1, "bock": 0.2, "stout": 0.7}]})
    assert answer["predictions"][0]["prediction"] == "stout"


@pytest.mark.parametrize(("columns", "fields", "code"), [
    ({"x": [0.1, 2.0] * 50, "y": [0, 1] * 50}, {"target": "y", "prediction": "p"}, "unknown_column"),
    ({"x": [0.1, 2.0] * 50, "y": [0, 1] * 50, "p": [0.2, 1.4] * 50}, {"target": "y", "prediction": "p"}, "wrong_prediction"),
    ({"x": [0.1, 2.0] * 50, "y": [0, 1] * 50, "p": [0.2, None] * 50}, {"target": "y", "prediction": "p"}, "wrong_prediction"),
    ({"x": [0.1, 2.0] * 50, "y": [0, 1] * 50, "p_0": [0.2, 0.4] * 50}, {"target": "y", "prediction": "p_"}, "wrong_prediction"),
    ({"x": [0.1, 2.0] * 50, "y": [0, 1] * 50, "p": [0.2, 0.4] * 50}, {"target": "y"}, "missing_field"),
    ({"x": [0.1, 2.0] * 50, "y": [0.5, 1.7, 3.3, 9.1] * 25, "p_a": [1.5, 4.4] * 50}, {"target": "y", "prediction": "p_", "task": "regression"}, "wrong_prediction"),
    ({"x": [0.1, 2.0] * 50, "y": [0, 1] * 50, "w": [1, 0] * 50, "p": [0.2, 0.4] * 50}, {"target": "y", "prediction": "p", "weight": "w"}, "wrong_option"),
])  # fmt: skip
def test_a_file_that_cannot_be_a_reference_is_refused(system, tmp_path, columns, fields, code):
    with pytest.raises(Refusal) as refused:
        register(system, tmp_path, pa.table(columns), **fields)
    assert (refused.value.status, refused.value.code) == (422, code)
