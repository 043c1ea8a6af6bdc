"""Shares of groups equal those that pandas counts from the same rows; small groups are only warned of."""

import fairlearn.metrics as fairlearn
import pytest
from sklearn.metrics import precision_score

from models.schema import Target
from stream.errors import Refused
from stream.fairness import LEAST, fairness
from stream.queries import Window


@pytest.fixture
def told(world):
    records = world.requests(300)
    for k, record in enumerate(records):
        record["c"] = "mobile" if k % 2 else "web"
        record["rows"][0]["town"] = "Oslo" if k < 40 else record["rows"][0]["town"]
    engine = world.new_engine()
    engine.cycle(world.raws(records))
    facts = [(f"a{k}-{j}", "true" if row["x"] + (k % 3) * 0.2 > 0.3 else "false", None, f"f{k}-{j}") for k, record in enumerate(records) for j, row in enumerate(record["rows"]) if (k + j) % 4]
    engine.cycle(world.actuals(facts, 10_000))
    return world


def frames(world):
    given = world.front.reader.arrow(f"SELECT features_cat['town'] AS town, consumer, predicted_class AS said, probabilities[2] AS p FROM predictions WHERE deployment = '{world.name}' AND role = 'champion'").to_pandas()
    known = world.front.reader.arrow(f"SELECT features_cat['town'] AS town, consumer, predicted_class AS said, actual_class AS was, probabilities[2] AS p FROM outcomes WHERE deployment = '{world.name}' AND role = 'champion'").to_pandas()
    return given, known


@pytest.mark.parametrize("by", ["town", "consumer"])
def test_shares_equal_those_counted_from_the_rows(told, by):
    found = fairness(told.front.reader, Window(told.name), told.package.schema.target, by, "true")
    given, known = frames(told)
    expected = {
        "proportional_parity": given.groupby(by).said.apply(lambda s: (s == "true").mean()),
        "equal_parity": given.groupby(by).said.apply(lambda s: (s == "true").sum()),
        "true_favorable_rate": known[known.was == "true"].groupby(by).said.apply(lambda s: (s == "true").mean()),
        "true_unfavorable_rate": known[known.was == "false"].groupby(by).said.apply(lambda s: (s == "false").mean()),
        "favorable_predictive_value": known[known.said == "true"].groupby(by).was.apply(lambda s: (s == "true").mean()),
        "unfavorable_predictive_value": known[known.said == "false"].groupby(by).was.apply(lambda s: (s == "false").mean()),
        "favorable_class_balance": known[known.was == "true"].groupby(by).p.mean(),
        "unfavorable_class_balance": known[known.was == "false"].groupby(by).p.mean(),
    }
    assert set(found["metrics"]) == set(expected)
    for name, shares in expected.items():
        assert {r["group"]: r["value"] for r in found["metrics"][name]} == pytest.approx(shares.to_dict()), name
    for sql in found["sql"].values():
        assert told.front.reader.rows(sql)


@pytest.mark.parametrize("by", ["town", "consumer"])
def test_shares_and_ratios_are_those_of_fairlearn(told, by):
    found = fairness(told.front.reader, Window(told.name), told.package.schema.target, by, "true")["metrics"]
    given, known = frames(told)
    was, said = (known.was == "true").astype(int), (known.said == "true").astype(int)
    theirs = {
        "true_favorable_rate": fairlearn.true_positive_rate,
        "true_unfavorable_rate": fairlearn.true_negative_rate,
        "favorable_predictive_value": precision_score,
    }
    for name, metric in theirs.items():
        expected = fairlearn.MetricFrame(metrics=metric, y_true=was, y_pred=said, sensitive_features=known[by])
        assert {r["group"]: r["value"] for r in found[name]} == pytest.approx(expected.by_group.to_dict()), name
        large = {r["group"]: r["ratio"] for r in found[name] if r["ratio"] is not None}  # ours leaves small groups out
        judged = known[by].isin(list(large))
        ratio = fairlearn.MetricFrame(metrics=metric, y_true=was[judged], y_pred=said[judged], sensitive_features=known[by][judged]).ratio(method="between_groups")
        assert len(large) >= (2 if by == "consumer" else 1)
        assert min(large.values()) == pytest.approx(ratio), name
    chosen = (given.said == "true").astype(int)
    expected = fairlearn.MetricFrame(metrics=fairlearn.selection_rate, y_true=chosen, y_pred=chosen, sensitive_features=given[by])
    assert {r["group"]: r["value"] for r in found["proportional_parity"]} == pytest.approx(expected.by_group.to_dict())
    ratio = fairlearn.demographic_parity_ratio(chosen, chosen, sensitive_features=given[by])
    assert all(r["ratio"] is not None for r in found["proportional_parity"])
    assert min(r["ratio"] for r in found["proportional_parity"]) == pytest.approx(ratio)


def test_groups_below_a_hundred_rows_are_warned_of_and_judged_by_nobody(told):
    found = fairness(told.front.reader, Window(told.name), told.package.schema.target, "sql:if(features_cat['town'] = 'Lima', 'Lima', if(features_num['x'] > 2.2, 'far', 'near'))", "true")
    by_group = {r["group"]: r for r in found["metrics"]["proportional_parity"]}
    assert by_group["far"]["of"] < LEAST
    assert (by_group["far"]["status"], by_group["far"]["ratio"]) == ("unknown", None)
    assert "needed" in by_group["far"]["warning"]
    assert max(r["ratio"] for r in by_group.values() if r["ratio"] is not None) == 1.0


def test_an_unequal_treatment_fails_and_an_equal_one_passes(told):
    unequal = fairness(told.front.reader, Window(told.name), told.package.schema.target, "sql:if(features_num['x'] > 0, 'high', 'low')", "true")
    assert unequal["status"] == "failing"
    assert "proportional_parity" in unequal["unfair"]
    equal = fairness(told.front.reader, Window(told.name), told.package.schema.target, "sql:toString(cityHash64(association_id) % 2)", "true")
    assert equal["status"] == "passing", equal["metrics"]


def test_what_cannot_be_judged_is_refused(told):
    log, target = told.front.reader, told.package.schema.target
    with pytest.raises(Refused, match="no class"):
        fairness(log, Window(told.name), target, "town", "maybe")
    with pytest.raises(Refused, match="regression"):
        fairness(log, Window(told.name), Target("y", "regression"), "town")
    with pytest.raises(Refused, match="more than"):
        fairness(log, Window(told.name), target, "sql:event_id", "true")
    with pytest.raises(Refused):
        fairness(log, Window(told.name), target, "sql:1; DROP TABLE x", "true")


def test_as_it_was_known_before_the_actuals(told):
    first = told.sql("SELECT toUnixTimestamp64Micro(min(recorded_at)) AS t FROM actuals WHERE $d")[0]["t"]
    found = fairness(told.front.reader, Window(told.name, as_of=int(first) - 1), told.package.schema.target, "town", "true")
    assert {r["value"] for r in found["metrics"]["true_favorable_rate"]} == {None}
    assert {r["of"] for r in found["metrics"]["true_favorable_rate"]} == {0}
