"""Direct loss estimation: what is expected of rows that shifted, beside what became true of them."""

import numpy as np
import pytest

from models.autopilot import Result, run
from models.blueprints import REPOSITORY
from models.losses import errors_of_losses, learn_losses
from models.packaging import save_all
from models.preparation import Options
from models.registry import Artifacts, Registry
from models.schema import Feature, Schema, Target
from tests.support import from_rows

SCHEMA = Schema(Target("y", "regression"), (Feature("x", "numeric"), Feature("c", "categorical", ("calm", "wild"))))


def noisy(rng, n, low, high, wild):
    """Rows whose noise grows with x, and threefold where they are wild; the model knows the mean, 2 x."""
    x, c = rng.uniform(low, high, n), (rng.random(n) < wild).astype(float)
    return np.column_stack([x, c]), 2 * x + rng.normal(0, 1, n) * (0.5 + x) * np.where(c > 0, 3, 1), 2 * x


@pytest.mark.parametrize(("low", "high", "wild"), [(0, 2, 0.3), (0, 0.7, 0.0), (1.3, 2, 0.9), (0.5, 1.5, 1.0)])
def test_the_expected_error_of_shifted_rows_is_the_realised_one(low, high, wild):
    rng = np.random.default_rng(1)
    base, y, said = noisy(rng, 20_000, 0, 2, 0.3)
    losses = learn_losses(SCHEMA, base, y, said, 0)
    base, y, said = noisy(rng, 20_000, low, high, wild)
    found = errors_of_losses(losses.expected(base, said))
    assert found["mae"] == pytest.approx(np.abs(y - said).mean(), rel=0.1)
    assert found["rmse"] == pytest.approx(np.sqrt(((y - said) ** 2).mean()), rel=0.12)


def test_too_few_rows_teach_nothing():
    base, y, said = noisy(np.random.default_rng(2), 100, 0, 2, 0.3)
    assert learn_losses(SCHEMA, base, y, said, 0) is None


def test_a_package_keeps_them_bit_for_bit_and_one_of_classes_has_none(tmp_path):
    rng = np.random.default_rng(3)
    registry = Registry(Artifacts(f"file://{tmp_path}"))
    chosen = tuple(b for b in REPOSITORY if b.name in {"linear", "lightgbm"})
    for target in ("y", "late"):
        rows = [{"x": x, "c": c, "y": y, "late": "yes" if y > 2 else "no"} for (x, c), y in zip(*noisy(rng, 1200, 0, 2, 0.3)[:2], strict=True)]
        table = from_rows([{k: v for k, v in row.items() if k in {"x", "c", target}} for row in rows])
        options = Options(target)
        result = next(step for step in run(table, options, chosen) if isinstance(step, Result))
        board = save_all(registry, table, result, options, {})
        packages = [registry.load(m["model_id"]) for m in board]
        if target == "late":
            assert all(p.losses is None for p in packages)
            continue
        for package in packages:
            base = np.column_stack([rng.uniform(0, 2, 50), np.zeros(50)])
            said = package.plan.predict(base)[:, 0]
            expected = package.losses.expected(base, said)
            assert np.isfinite(expected).all()
            assert (expected >= 0).all()
            assert (registry.load(package.digest).losses.expected(base, said) == expected).all()
