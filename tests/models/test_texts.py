"""Text columns against their reference: lengths, words never seen, missing ones; quiet where nothing changed."""

import json

import numpy as np
import pytest

from models.texts import freeze_texts, text_drift, text_reference, words

WORDS = [f"word{k}" for k in range(300)]


def written(rng, n, low=5, high=30, own=()):
    pool = [*WORDS, *own]
    return [" ".join(rng.choice(pool, rng.integers(low, high))) for _ in range(n)]


@pytest.fixture(scope="module")
def reference():
    return freeze_texts("plot", written(np.random.default_rng(1), 3000), 0)


def test_it_is_read_back_as_it_was(reference):
    again = text_reference(json.loads(json.dumps(reference.to_json())))
    assert again == reference


def test_windows_of_the_same_writing_stay_quiet(reference):
    rng = np.random.default_rng(2)
    told = [text_drift(reference, written(rng, int(n)), 1)["status"] for n in [100] * 30 + [1000] * 10]
    assert set(told) == {"passing"}


def test_longer_texts_new_words_and_missing_ones_are_told_apart(reference):
    rng = np.random.default_rng(3)
    longer = text_drift(reference, written(rng, 500, 20, 60), 1)
    assert (longer["length"]["status"], longer["unknown_words"]["status"]) == ("failing", "passing")
    slang = text_drift(reference, written(rng, 500, own=[f"slang{k}" for k in range(200)]), 1)
    assert (slang["length"]["status"], slang["unknown_words"]["status"]) == ("passing", "failing")
    assert slang["unknown_words"]["mean"] == pytest.approx(0.4, abs=0.02)
    gone = text_drift(reference, [None if k % 2 else text for k, text in enumerate(written(rng, 500))], 1)
    assert gone["status"] == "failing"
    assert next(b["production"] for b in gone["length"]["bins"] if b["label"] == "missing") == 250


def test_few_rows_are_unknown_and_none_are_no_error(reference):
    assert text_drift(reference, ["a b c"] * 99, 1)["status"] == "unknown"
    assert text_drift(reference, [], 1)["status"] == "unknown"


def test_words_of_other_scripts_are_words():
    assert words("Größe 3, naïve; 東京!") == ["größe", "3", "naïve", "東京"]
