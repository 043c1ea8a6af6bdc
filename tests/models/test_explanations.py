"""Contributions are what they are defined to be; intervals cover what they say."""

import numpy as np
import pytest

from models.autopilot import run
from models.blueprints import REPOSITORY
from models.conformal import half_width, residual_quantiles
from models.insights.contributions import contributions, raw, typical
from models.packaging import save_all
from models.preparation import Options
from models.registry import Artifacts, Registry
from tests.support import from_rows


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    rng = np.random.default_rng(1)
    x, z, town = rng.normal(size=600), rng.normal(size=600), rng.choice(["Oslo", "Rome"], 600)
    rows = [{"x": float(a), "z": float(b), "town": str(t), "v": float(3 * a - 2 * (t == "Rome") + rng.normal() * 0.1)} for a, b, t in zip(x, z, town, strict=True)]
    table, options = from_rows(rows), Options("v")
    registry = Registry(Artifacts(tmp_path_factory.mktemp("explained").as_uri()))
    result = list(run(table, options, tuple(b for b in REPOSITORY if b.name in {"constant", "linear", "lightgbm", "neural_network"})))[-1]
    return {m["blueprint"]: registry.load(m["model_id"]) for m in save_all(registry, table, result, options, {})}, rows


def test_contributions_of_an_additive_model_are_its_terms(packages):
    package = packages[0]["linear"]
    schema = package.schema
    row = schema.encode_rows([{"x": 1.5, "z": 0.2, "town": "Rome"}]).matrix[0]
    found = contributions(package.plan, package.baseline, row, 0, 3)
    reference = typical(schema, package.baseline)
    for item in found["strongest"]:
        j = schema.names.index(item["feature"])
        alone = reference.copy()
        alone[j] = row[j]
        scores = raw(package.plan, package.plan.predict(np.array([alone, reference])), None)
        assert item["contribution"] == pytest.approx(scores[0] - scores[1], abs=1e-9)
    assert found["interaction"] == pytest.approx(0, abs=1e-9)
    assert found["score"] == pytest.approx(found["typical_score"] + sum(i["contribution"] for i in found["strongest"]), abs=1e-9)


@pytest.mark.parametrize("name", ["lightgbm", "neural_network"])
def test_contributions_and_interaction_add_up_for_any_model(packages, name):
    package = packages[0][name]
    row = package.schema.encode_rows([{"x": -1.0, "z": None, "town": "Bergen"}]).matrix[0]
    found = contributions(package.plan, package.baseline, row, 0, 9)
    assert found["score"] == pytest.approx(found["typical_score"] + sum(i["contribution"] for i in found["strongest"]) + found["interaction"], abs=1e-9)
    assert found["strongest"][0]["feature"] == "x"
    assert {i["feature"]: i["value"] for i in found["strongest"]} == {"x": -1.0, "z": None, "town": "(unseen)"}


def test_an_interval_covers_its_share_of_new_rows():
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(60):
        held = rng.normal(size=400)
        residuals = residual_quantiles(held, np.zeros(400))
        half = half_width(residuals, 0.9)
        covered.append(float((np.abs(rng.normal(size=2000)) <= half).mean()))
    assert 0.89 < np.mean(covered) < 0.92


def test_too_few_held_out_rows_give_no_interval():
    residuals = residual_quantiles(np.arange(5.0), np.zeros(5))
    assert half_width(residuals, 0.9) is None
    assert half_width(residuals, 0.5) is not None
    assert half_width({}, 0.5) is None
