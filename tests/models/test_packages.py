"""Every blueprint, on every task: it fits, scores one row and a batch alike, and travels as data."""

import zipfile

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor

from models.autopilot import Progress, run
from models.baseline import drift_score, freeze
from models.blueprints import REPOSITORY
from models.errors import PackageError
from models.native import TreePredictor
from models.packaging import save_all
from models.preparation import Options, prepare
from models.registry import Artifacts, Registry
from models.scoring import Part, ScoringPlan
from models.table import read_table
from models.trees import forest_text, histogram_boosting_text
from tests.support import from_rows


def rows(task, n=400, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        x, z, town = rng.normal(), rng.normal(), rng.choice(["Oslo", "Rome", "Lima"], p=[0.6, 0.3, 0.1])
        signal = x + (town == "Rome") + rng.normal() * 0.7
        target = {"binary": "yes" if signal > 0.4 else "no", "multiclass": ["low", "mid", "high"][int(signal > 0) + int(signal > 1)], "regression": float(signal)}[task]
        made.append({"x": float(x) if k % 17 else None, "z": float(z), "town": str(town) if k % 13 else None, "flag": bool(z > 0.3), "target": target})
    return made


@pytest.fixture(params=["binary", "multiclass", "regression"])
def prepared(request):
    return prepare(from_rows(rows(request.param)), Options("target", task=request.param))


@pytest.mark.parametrize("blueprint", REPOSITORY, ids=lambda b: b.name)
def test_one_row_scores_the_same_bits_as_a_batch(blueprint, prepared):
    member = blueprint.fit(prepared.schema, prepared.base, prepared.y, 0)
    plan = ScoringPlan(prepared.schema, (Part(member),), [])
    base = np.vstack([prepared.base[:60], np.full((1, prepared.base.shape[1]), np.nan), prepared.schema.encode_rows([{"town": "Atlantis", "x": 1e9}]).matrix])
    batch = plan.predict(base)
    singles = np.array([plan.predict_one(row.tolist()) for row in base])
    assert np.array_equal(batch, singles)
    assert np.isfinite(batch).all()


@pytest.mark.parametrize("blueprint", REPOSITORY, ids=lambda b: b.name)
def test_a_package_scores_the_same_bits_after_its_journey(blueprint, prepared, tmp_path):
    member = blueprint.fit(prepared.schema, prepared.base, prepared.y, 0)
    plan = ScoringPlan(prepared.schema, (Part(member),), [])
    before = plan.predict(prepared.base)
    registry = Registry(Artifacts(tmp_path.as_uri()))
    digest = registry.save(plan, freeze(prepared.schema, prepared.base, drift_score(prepared.schema.target, before)), {})
    package = registry.load(digest)
    assert np.array_equal(package.plan.predict(prepared.base), before)
    assert package.digest == digest == registry.save(plan, package.baseline, {})


def test_a_package_whose_bytes_were_changed_is_refused(tmp_path):
    data = prepare(from_rows(rows("binary")), Options("target"))
    plan = ScoringPlan(data.schema, (Part(REPOSITORY[0].fit(data.schema, data.base, data.y, 0)),), [])
    registry = Registry(Artifacts(tmp_path.as_uri()))
    digest = registry.save(plan, freeze(data.schema, data.base, data.base[:, 0]), {})
    path = tmp_path / "packages" / f"{digest}.zip"
    with zipfile.ZipFile(path) as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    files["model.json"] = files["model.json"].replace(b'"town"', b'"tawn"')
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(PackageError, match="does not match its name"):
        registry.load(digest)
    with pytest.raises(PackageError, match="no package"):
        registry.load("0" * 64)


def test_forests_and_boosting_written_as_lightgbm_text_score_bit_for_bit():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 5)).astype(np.float32).astype(np.float64)
    y2 = (x[:, 0] + rng.normal(size=1500) > 0).astype(int)
    y3 = y2 + (x[:, 1] > 1)
    holes = np.where(rng.random(x.shape) < 0.1, np.nan, x)
    for kind in (RandomForestClassifier, ExtraTreesClassifier):
        for y in (y2, y3):
            model = kind(20, min_samples_leaf=3, random_state=0).fit(x, y)
            mine = TreePredictor(forest_text(model, 5), 5, averaged=True).many(x)
            theirs = model.predict_proba(x)
            assert np.array_equal(mine, theirs[:, 1:] if theirs.shape[1] == 2 else theirs)
    for y in (y2, y3):
        model = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(holes, y)
        assert np.array_equal(TreePredictor(histogram_boosting_text(model, 5), 5, averaged=False).many(holes), model._raw_predict(holes).reshape(len(x), -1))
    for model in (RandomForestRegressor(20, random_state=0), HistGradientBoostingRegressor(max_iter=20)):
        model.fit(x, x[:, 0] * 2 + rng.normal(size=1500))
        text = forest_text(model, 5) if isinstance(model, RandomForestRegressor) else histogram_boosting_text(model, 5)
        assert np.array_equal(TreePredictor(text, 5, averaged=isinstance(model, RandomForestRegressor)).many(x)[:, 0], model.predict(x))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_autopilot_beats_the_constant_and_packages_every_model(task, tmp_path):
    table = from_rows(rows(task))
    options = Options("target", task=task)
    steps = list(run(table, options))
    result = steps[-1]
    assert [s.share for s in steps[:-1]] == sorted(s.share for s in steps if isinstance(s, Progress))
    names = {e.blueprint for e in result.entries}
    assert {b.name for b in REPOSITORY} <= names
    assert any(n.startswith("blend of") for n in names)
    board = save_all(Registry(Artifacts(tmp_path.as_uri())), table, result, options, {"project_id": "p"})
    assert board[0]["recommended"]
    constant = next(m for m in board if m["blueprint"] == "constant")
    assert board[0]["validation"] < constant["validation"]
    package = Registry(Artifacts(tmp_path.as_uri())).load(board[0]["model_id"])
    assert set(package.metadata["importance"]) == set(package.schema.names)
    assert max(package.metadata["importance"], key=package.metadata["importance"].get) == "x"


def test_classes_that_are_known_keep_their_places_although_no_row_has_them(tmp_path):
    rng = np.random.default_rng(3)
    table = from_rows([{"x": float(x), "z": float(z), "target": ["fog", "sun"][int(x + rng.normal() > 0)]} for x, z in rng.normal(size=(300, 2))])
    known = ("drizzle", "fog", "rain", "sun")
    options = Options("target", classes=known)
    result = list(run(table, options))[-1]
    board = save_all(Registry(Artifacts(tmp_path.as_uri())), table, result, options, {"project_id": "p"})
    assert len(board) > 8
    for entry in board:
        package = Registry(Artifacts(tmp_path.as_uri())).load(entry["model_id"])
        assert (package.schema.target.task, package.schema.target.classes) == ("multiclass", known)
        base = rng.normal(size=(40, 2))
        many = package.plan.predict(base)
        assert np.array_equal(many[7], package.plan.predict_one(base[7].tolist()))
        assert np.allclose(many.sum(axis=1), 1)
        assert (many[:, [0, 2]] < 0.01).all()
    assert board[0]["validation"] < 0.65


def test_a_class_that_only_the_newest_rows_have_stops_no_fold():
    rng = np.random.default_rng(4)
    rows = [{"day": f"2026-01-{1 + k // 20:02d}", "x": float(rng.normal()), "target": "c" if k > 470 else ["a", "b"][k % 2]} for k in range(500)]
    lines = ["day,x,target", *(f"{r['day']},{r['x']},{r['target']}" for r in rows)]
    result = list(run(read_table("\n".join(lines).encode()), Options("target", timestamp="day")))[-1]
    assert {"linear", "lightgbm", "random_forest", "neural_network"} <= {e.blueprint for e in result.entries}
