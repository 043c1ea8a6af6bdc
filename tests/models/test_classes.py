"""Class by class as scikit-learn has it."""

import numpy as np
import pytest
from sklearn import metrics

from models.classes import by_class

LABELS = ("a", "b", "c", "d")


@pytest.mark.parametrize("seed", range(5))
def test_each_class_and_the_means_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    y, said = rng.integers(0, 3, 200), rng.integers(0, 3, 200)  # nobody is a d
    found = by_class(y, said, LABELS)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(y, said, labels=[0, 1, 2])
    for k, one in enumerate(found["classes"][:3]):
        assert [one["precision"], one["recall"], one["f1"], one["came_true"]] == pytest.approx([precision[k], recall[k], f1[k], support[k]])
    assert found["classes"][3] == {"class": "d", "came_true": 0, "said": 0, "precision": None, "recall": None, "f1": None}
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert found["macro"][name] == pytest.approx(values.mean())
    assert found["micro"]["f1"] == pytest.approx(metrics.f1_score(y, said, average="micro"))
    assert np.array_equal(np.array(found["confusion"]["actual_by_predicted"])[:3, :3], metrics.confusion_matrix(y, said, labels=[0, 1, 2]))


def test_an_actual_of_a_class_never_trained_is_an_error_of_what_was_said():
    found = by_class(np.array([0, -1, 1, -1]), np.array([0, 0, 1, 2]), LABELS)
    assert found["classes"][0]["precision"] == 0.5
    assert found["classes"][2] == {"class": "c", "came_true": 0, "said": 1, "precision": 0.0, "recall": None, "f1": 0.0}
    assert found["confusion"]["actual_by_predicted"][-1] == [1, 0, 1, 0]
    assert found["micro"]["f1"] == 0.5
