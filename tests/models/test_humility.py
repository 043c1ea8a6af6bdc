"""Rules hit what they say, act in their order, and refuse what they cannot mean."""

import numpy as np
import pytest

from models.baseline import freeze
from models.errors import DataError
from models.humility import apply, hits_text, read_rules, recommended
from models.schema import Feature, Schema, Target

BINARY = Schema(Target("y", "binary", ("no", "yes"), "yes"), (Feature("age", "numeric"), Feature("town", "categorical", ("Oslo", "Rome"))))
VALUE = Schema(Target("v", "regression"), (Feature("age", "numeric"),))
BASE = np.array([[20.0, 0], [90, 1], [40, 2], [np.nan, 1], [50, np.nan]])
P = np.array([[0.9, 0.1], [0.45, 0.55], [0.3, 0.7], [0.02, 0.98], [0.6, 0.4]])


def rule(kind, action="none", **more):
    then = {k: more.pop(k) for k in ("prediction", "message") if k in more}
    if action == "fallback":
        then["model_id"] = "other"
    return {"name": more.pop("name", kind), "trigger": {"kind": kind, **more}, "action": {"kind": action, **then}}


def hit(data, schema=BINARY, base=BASE, output=P, others=None, ms=1.0):
    return apply(read_rules(data, schema), schema, base, output, others or {}, ms)


@pytest.mark.parametrize(
    ("one", "rows"),
    [
        (rule("uncertain_prediction", lower=0.4, upper=0.6), {1, 4}),
        (rule("outlying_input", feature="age", lower=30, upper=80), {0, 1}),
        (rule("outlying_input", feature="age", upper=80), {1}),
        (rule("low_observation_region", feature="town", values=["Rome"]), {1, 3}),
        (rule("low_observation_region", feature="town", values=["Rome"], inside=False), {0, 2, 4}),
        (rule("missing_feature"), {3, 4}),
        (rule("missing_feature", feature="age"), {3}),
        (rule("unseen_category"), {2}),
        (rule("disagreement", model_id="other", above=0.3), {0}),
        (rule("latency_budget", milliseconds=0.5), {0, 1, 2, 3, 4}),
        (rule("latency_budget", milliseconds=5), set()),
    ],
)
def test_a_trigger_hits_its_rows(one, rows):
    other = P.copy()
    other[0] = [0.5, 0.5]
    assert set(hit([one], others={"other": other}).hits) == rows


def test_a_value_is_uncertain_outside_its_bounds():
    found = hit([rule("uncertain_prediction", lower=1, upper=3)], VALUE, np.zeros((3, 1)), np.array([[0.5], [2.0], [4.0]]))
    assert set(found.hits) == {0, 2}


def test_all_hits_are_named_and_the_first_that_acts_acts():
    rules = [rule("missing_feature", name="a"), rule("uncertain_prediction", "override", name="b", lower=0.4, upper=0.6, prediction="no"), rule("outlying_input", "refer", name="c", feature="age", upper=80)]
    found = hit(rules)
    assert [hits_text(found, k) for k in range(5)] == ["", "b:override,c:none", "", "a:none", "a:none,b:override"]
    assert np.array_equal(found.output, P)  # a class is overridden, its probabilities are the model's


def test_fallback_and_override_serve_something_else_and_leave_the_models_output_alone():
    other = np.full((5, 2), 0.5)
    found = hit([rule("missing_feature", "fallback")], others={"other": other})
    assert found.output[3].tolist() == found.output[4].tolist() == [0.5, 0.5]
    assert P[3].tolist() == [0.02, 0.98]
    value = hit([rule("uncertain_prediction", "override", upper=3, prediction=7)], VALUE, np.zeros((2, 1)), np.array([[9.0], [1.0]]))
    assert value.output.tolist() == [[7.0], [1.0]]


@pytest.mark.parametrize(
    "data",
    [
        {}, [7], [{"trigger": {"kind": "nothing"}}], [rule("missing_feature", "explode")], [rule("uncertain_prediction")], [rule("uncertain_prediction", lower="low")],
        [rule("uncertain_prediction", lower=float("nan"))], [rule("outlying_input", upper=3)], [rule("outlying_input", feature="nobody", upper=3)], [rule("outlying_input", feature="town", upper=3)],
        [rule("low_observation_region", feature="age", values=["x"])], [rule("low_observation_region", feature="town", values="Rome")], [rule("disagreement", above=0.1)],
        [rule("latency_budget")], [rule("missing_feature", "override", prediction="perhaps")], [rule("missing_feature"), rule("missing_feature")], [rule("missing_feature", name="a:b")],
    ],
)  # fmt: skip
def test_a_rule_that_means_nothing_is_refused(data):
    with pytest.raises(DataError) as found:
        read_rules(data, BINARY)
    assert found.value.code == "wrong_rule"


def test_a_rule_survives_its_json():
    rules = read_rules([rule("uncertain_prediction", "override", lower=0.4, upper=0.6, prediction="no"), rule("low_observation_region", feature="town", values=["Rome"])], BINARY)
    assert read_rules([r.to_json() for r in rules], BINARY) == rules


def test_recommended_bounds_hold_a_tenth_of_the_held_out_scores_and_the_reference_range():
    rng = np.random.default_rng(0)
    base = np.column_stack([rng.normal(50, 10, 1000), rng.integers(0, 2, 1000)])
    scores = rng.random(1000)
    baseline = freeze(BINARY, base, scores)
    rules = recommended(BINARY, baseline, {"age": 1.0, "town": 0.2}, np.quantile(scores, np.linspace(0, 1, 101)).tolist())
    uncertain, outlying = read_rules(rules, BINARY)
    inside = (scores >= uncertain.on["lower"]) & (scores <= uncertain.on["upper"])
    assert 0.07 < inside.mean() < 0.13
    assert (outlying.on["feature"], outlying.on["lower"], outlying.on["upper"]) == ("age", base[:, 0].min(), base[:, 0].max())
