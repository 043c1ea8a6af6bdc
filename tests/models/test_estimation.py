"""Estimated accuracy and the detectors against others' implementations and simulated truth."""

from dataclasses import replace

import numpy as np
import pytest
from river import drift
from river.drift import ADWIN
from sklearn import metrics

from models.detectors import MISTAKES, NUMBERS, ConceptDetector, OtherDetector, errors_of, primed, priming_of, read_detectors
from models.errors import DataError
from models.estimation import estimated
from models.metrics import METRICS
from models.schema import Feature, Schema, Target


def simulated(rng, n=4000):
    p = rng.beta(0.8, 2.0, n)
    return np.column_stack([1 - p, p])


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "brier", "precision", "recall", "f1", "roc_auc"])
def test_an_estimate_is_the_mean_of_what_labels_drawn_from_the_probabilities_give(name):
    rng = np.random.default_rng(3)
    p = simulated(rng)
    drawn = [METRICS[name].function((rng.random(len(p)) < p[:, 1]).astype(np.int64), p) for _ in range(60)]
    if name in {"precision", "recall", "f1"}:  # ours are macro averages; the expected ones are of the positive class
        labels = [(rng.random(len(p)) < p[:, 1]).astype(np.int64) for _ in range(60)]
        one = {"precision": metrics.precision_score, "recall": metrics.recall_score, "f1": metrics.f1_score}[name]
        drawn = [one(y, p[:, 1] >= 0.5) for y in labels]
    assert estimated(p)[name] == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(60) + 2e-3)


def test_the_expected_auc_is_of_rows_that_are_each_class_in_part_with_ties_counting_half():
    p = np.random.default_rng(6).beta(0.8, 2.0, 500).round(2)
    both = np.repeat([1, 0], 500)
    assert estimated(np.column_stack([1 - p, p]))["roc_auc"] == pytest.approx(metrics.roc_auc_score(both, np.tile(p, 2), sample_weight=np.concatenate([p, 1 - p])), rel=1e-12)


def test_several_classes_have_accuracy_and_log_loss():
    rng = np.random.default_rng(4)
    p = rng.dirichlet([1, 2, 3], 3000)
    y = np.array([rng.choice(3, p=row) for row in p])
    found = estimated(p)
    assert found["accuracy"] == pytest.approx(METRICS["accuracy"].function(y, p), abs=0.03)
    assert found["log_loss"] == pytest.approx(METRICS["log_loss"].function(y, p), abs=0.03)
    assert set(found) == {"accuracy", "log_loss"}


def test_the_detector_alarms_where_river_alone_does_and_says_which_way():
    rng = np.random.default_rng(5)
    errors = np.concatenate([rng.random(3000) < 0.1, rng.random(3000) < 0.4, rng.random(3000) < 0.15]).astype(float)
    priming = (rng.random(2000) < 0.1).astype(float)
    alone = ADWIN(delta=0.002)
    for value in priming:
        alone.update(value)
    expected = []
    for k, value in enumerate(errors):
        alone.update(value)
        if alone.drift_detected:
            expected.append(k)
    detector, found = ConceptDetector(priming), []
    for at in range(0, len(errors), 700):  # whatever the cohorts' sizes
        found.extend(detector.update(errors[at : at + 700]))
    assert [c.index for c in found] == expected
    assert 3000 < expected[0] < 3200
    assert found[0].direction == "worse"
    assert found[-1].direction == "better"


def test_priming_finds_a_model_that_is_bad_from_the_first_row_and_keeps_quiet_about_a_good_one():
    rng = np.random.default_rng(6)
    held = (rng.random(3000) < 0.1).astype(float)
    metadata = {"priming": priming_of(held), "metrics": {"accuracy": 0.9}}
    assert primed(metadata, "binary").update((rng.random(1500) < 0.35).astype(float))
    assert not primed(metadata, "binary").update((rng.random(5000) < 0.1).astype(float))
    values = errors_of("regression", rng.normal(size=2000), None, np.zeros(2000), 8.0)
    assert not primed({"priming": priming_of(values)}, "regression").update(errors_of("regression", rng.normal(size=2000), None, np.zeros(2000), 8.0))
    assert primed({"metrics": {"accuracy": 0.9}}, "binary").update((rng.random(1500) < 0.35).astype(float))


ALONE = {"adwin": lambda: drift.ADWIN(delta=0.002), "page_hinkley": drift.PageHinkley, "kswin": lambda: drift.KSWIN(seed=20261123), "ddm": drift.binary.DDM, "eddm": drift.binary.EDDM, "hddm_a": drift.binary.HDDMA, "hddm_w": drift.binary.HDDMW}


@pytest.mark.parametrize("kind", [*NUMBERS, *MISTAKES])
def test_a_detector_that_was_asked_for_alarms_where_river_alone_does(kind):
    rng = np.random.default_rng(7)
    errors = np.concatenate([rng.random(1500) < 0.1, rng.random(1500) < 0.6]).astype(float)
    priming = (rng.random(300) < 0.1).astype(float)
    alone, expected = ALONE[kind](), []
    for k, value in enumerate([*priming, *errors]):
        alone.update(bool(value) if kind in MISTAKES else value)
        if alone.drift_detected and k >= len(priming):
            expected.append(k - len(priming))
    detector, found = OtherDetector(kind, priming), []
    for at in range(0, len(errors), 170):
        found.extend(detector.update(errors[at : at + 170]))
    assert [c.index for c in found] == expected
    first = next(c for c in found if c.index >= 1500)
    assert first.direction == "worse"
    assert first.index < 2200


def test_what_cannot_be_watched_is_refused():
    schema = Schema(Target("y", "binary", ("no", "yes"), "yes"), (Feature("x", "numeric"), Feature("town", "categorical", ("Rome",))))
    assert read_detectors([{"kind": "kswin", "on": "x"}, {"kind": "ddm"}, {"kind": "ddm"}], schema) == [{"kind": "kswin", "on": "x"}, {"kind": "ddm", "on": "error"}]
    values = replace(schema, target=Target("y", "regression"))
    for data, asked in ((3, schema), ([3], schema), ([{"kind": "crystal ball"}], schema), ([{"kind": "adwin", "on": "town"}], schema), ([{"kind": "ddm", "on": "x"}], schema), ([{"kind": "ddm"}], values), ([{"kind": "adwin", "delta": 1}], schema)):
        with pytest.raises(DataError):
            read_detectors(data, asked)
