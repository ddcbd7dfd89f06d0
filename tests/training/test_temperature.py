import numpy as np
import pytest

from tlopt import judging
from tlopt.training.outcome import metrics, temperature


@pytest.fixture
def answers():
    """Logits drawn so that their softmax is the truth."""
    chance = np.random.default_rng(0)
    logits = chance.normal(0, 2, (4000, 3)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (p.cumsum(1) < chance.random((4000, 1))).sum(1)
    return logits, np.minimum(labels, 2)


def test_calibrated_answers_need_no_temperature(answers):
    assert temperature.temperature(*answers) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_the_temperature_undoes_a_scale(answers, factor):
    logits, labels = answers
    assert temperature.temperature(logits * factor, labels) == pytest.approx(factor, rel=0.1)


def test_the_calibration_error_is_small_only_for_calibrated_answers(answers):
    logits, labels = answers
    errors = [
        judging.calibration_error(judging.softmax(answered).max(1), answered.argmax(1) == labels)
        for answered in (logits, logits * 8)
    ]
    assert errors[0] < 0.03
    assert errors[1] > 0.1


def test_metrics_are_those_of_scikit_learn(answers):
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, labels = answers
    found = metrics.summary(logits, labels, ("a", "b", "c"))
    predicted = logits.argmax(1)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(labels, predicted, average="macro"))
    assert [row["recall"] for row in found["per_class"].values()] == pytest.approx(
        sklearn.recall_score(labels, predicted, average=None), abs=1e-4
    )
    low, high = found["accuracy_interval"]
    assert low < found["accuracy"] < high
    assert found["top5"] == 1
    assert found["top5_interval"] == [1, 1]
    for row in found["per_class"].values():
        for name in ("precision", "recall"):
            low, high = row[f"{name}_interval"]
            assert low < row[name] < high
            # 1,333 images a class: the standard error of a share of about 0.7 is 0.0125.
            assert 0.03 < high - low < 0.08


def test_a_class_that_never_occurs_scores_zero_and_not_nothing():
    found = metrics.summary(np.eye(3, dtype=np.float32)[[0, 1, 0]], np.array([0, 1, 1]), ("a", "b", "c"))
    nothing = {"precision": 0.0, "precision_interval": [0, 0], "recall": 0.0, "recall_interval": [0, 0]}
    assert found["per_class"]["c"] == {"images": 0, **nothing}
