"""The rule that decides at present beside what is served: its metrics are scikit-learn's of what the rule says of the same rows."""

import numpy as np
import pytest
from sklearn import metrics as reference

from models.errors import DataError
from stream.monitoring import accuracy_story
from stream.present_rule import expression_of, tried
from stream.queries import Window
from tests.stream.conftest import MINUTE, T0

ROWS = 400


@pytest.fixture
def story(world):
    """Answered rows with their outcomes, which x decides more often than not."""
    rng = np.random.default_rng(7)
    records = world.requests(ROWS, rows_each=1, seed=4)
    for k, record in enumerate(records):
        record["ts"] = [T0 + k * MINUTE]
    x = np.array([r["rows"][0]["x"] for r in records])
    truth = x + rng.normal(0, 0.5, ROWS) > 0.3
    engine = world.new_engine()
    engine.cycle(world.raws(records))
    engine.cycle(world.actuals([[f"a{k}-0", str(bool(truth[k])).lower(), T0 + k * MINUTE, f"f{k}"] for k in range(ROWS)], ROWS + 1))
    town = np.array([r["rows"][0]["town"] for r in records])
    said = np.array([r["k1"][0] for r in records]) == "true"
    return world, engine, x, town, truth, said


def asked(story, rule, **settings):
    world, engine, *_ = story
    world.catalog.deployments[world.name].settings = {"present_rule": rule, **settings}
    return accuracy_story(world.front.reader, engine._registry, world.catalog, Window(world.name))["totals"]["present_rule"]


def test_a_segment_is_the_positive_class_where_it_holds(story):
    world, _, x, town, truth, said = story
    found = asked(story, "x>=0.5,town=Rome")
    by_rule = (x >= 0.5) & (town == "Rome")
    assert (found["rows"], found["silent_rows"]) == (ROWS, 0)
    assert set(found["metrics"]) == {"accuracy", "balanced_accuracy", "f1", "precision", "recall", "mcc"}, "a rule that decides gives no probability"
    for name, function in (("accuracy", reference.accuracy_score), ("f1", reference.f1_score), ("mcc", reference.matthews_corrcoef), ("balanced_accuracy", reference.balanced_accuracy_score)):
        entry = found["metrics"][name]
        assert entry["rule"] == pytest.approx(function(truth, by_rule))
        assert entry["served"] == pytest.approx(function(truth, said))
        assert entry["difference"] == pytest.approx(entry["served"] - entry["rule"])
    differences = [reference.accuracy_score(truth[part], said[part]) - reference.accuracy_score(truth[part], by_rule[part]) for part in np.array_split(np.arange(ROWS), 5)]
    assert sum(found["metrics"]["accuracy"]["interval"]) / 2 == pytest.approx(np.mean(differences))
    assert len(world.front.reader.rows(found["sql"])) == ROWS


def test_a_rule_that_gives_a_probability_has_the_other_metrics_too_and_rows_of_which_it_says_nothing_are_left_out(story):
    _, _, x, _, truth, said = story
    found = asked(story, "sql:if(features_num['x'] > 1.5, NULL, 1 / (1 + exp(-features_num['x'])))", payoff={"true": {"true": 10.0}, "false": {"true": -3.0}})
    keep = x <= 1.5
    p = 1 / (1 + np.exp(-x[keep]))
    assert (found["rows"], found["silent_rows"]) == (keep.sum(), (~keep).sum())
    assert found["metrics"]["log_loss"]["rule"] == pytest.approx(reference.log_loss(truth[keep], p))
    assert found["metrics"]["roc_auc"]["rule"] == pytest.approx(reference.roc_auc_score(truth[keep], p))
    assert found["metrics"]["accuracy"]["served"] == pytest.approx((said == truth)[keep].mean())
    worth = lambda decided: float(np.where(decided, np.where(truth[keep], 10.0, -3.0), 0.0).sum())  # noqa: E731
    assert found["payoff"]["rule"]["total"] == pytest.approx(worth(p >= 0.5))
    assert found["payoff"]["gain"]["total"] == pytest.approx(worth(said[keep]) - worth(p >= 0.5))


def test_a_rule_may_say_the_class_itself_or_be_an_input(story):
    _, _, x, _, truth, _ = story
    found = asked(story, "sql:multiIf(features_num['x'] > 1, 'true', features_num['x'] < 0, 'FALSE', 'perhaps')")
    keep = (x > 1) | (x < 0)
    assert (found["rows"], found["silent_rows"]) == (keep.sum(), (~keep).sum())
    assert found["metrics"]["accuracy"]["rule"] == pytest.approx(((x > 1) == truth)[keep].mean())
    inside = (x >= 0) & (x <= 1)
    found = asked(story, "x")  # an input as the probability, of the rows where it can be one
    assert (found["rows"], found["metrics"]["log_loss"]["rule"]) == (inside.sum(), pytest.approx(reference.log_loss(truth[inside], x[inside])))
    assert asked(story, "town")["rows"] == 0, "no town is a class"


def test_nothing_is_said_to_be_better_while_outcomes_still_come(story):
    world, engine, *_ = story
    assert "better" in asked(story, "x>=0.5")["metrics"]["accuracy"]
    late = world.requests(2 * ROWS, rows_each=1, seed=4)[ROWS:]
    for k, record in enumerate(late):
        record["ts"], record["s"] = [T0 + (ROWS + k) * MINUTE], 5 * ROWS + k
    engine.cycle(world.raws(late))
    assert "better" not in asked(story, "x>=0.5")["metrics"]["accuracy"]


def test_a_rule_that_cannot_be_read_or_asked_is_refused_and_one_that_fails_later_spoils_nothing_else(story):
    world, engine, *_ = story
    schema = world.package.schema
    for rule in ("no such input", "sql:x; DROP TABLE actuals", "sql:(", "x>tall", "y ~ 3"):
        with pytest.raises(DataError) as refused:
            expression_of(rule, schema)
        assert refused.value.code == "wrong_rule"
    with pytest.raises(DataError):
        tried(world.front.reader, world.name, "sql:no_such_column + 1", schema)
    with pytest.raises(DataError) as nested:
        tried(world.front.reader, world.name, "sql:[1, 2]", schema)
    assert "one class or one number" in str(nested.value)
    assert "one class or one number" in asked(story, "sql:map('a', 1)")["error"], "as one that was set when it still said one value"
    found = asked(story, "sql:no_such_column + 1")
    assert (found["rule"], "no_such_column" in found["error"]) == ("sql:no_such_column + 1", True)
    world.catalog.deployments[world.name].settings = {}
    assert accuracy_story(world.front.reader, engine._registry, world.catalog, Window(world.name))["totals"]["present_rule"] is None
