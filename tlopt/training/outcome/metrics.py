"""What a classifier's answers are worth: accuracy, precision, recall, F1, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlopt import judging
from tlopt.training.optimization.losses import divergence
from tlopt.training.outcome import temperature

_RESAMPLES = 1000
_MATRICES = 200  # resampled confusion matrices: enough for two digits of an interval, and quick for many classes


def summary(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the metrics of answers as JSON types, with 95 % intervals from the bootstrap.

    Images are drawn anew with replacement, and an interval holds the middle 95 % of what each draw gives
    (percentile bootstrap, Efron 1979, doi 10.1214/aos/1176344552). Precision, recall and F1 are defined as in
    scikit-learn; what would be 0 / 0 is 0.

    Args:
        logits: float32 (n, classes).
        labels: int64 (n,).
        classes: Class names.
    """
    predicted, classified = logits.argmax(1), logits.shape[1]
    matrix = judging.confusion(predicted, labels, classified)
    top5 = np.argsort(-logits, axis=1)[:, :5]
    precision, recall = _precision_recall(matrix)
    chance = np.random.default_rng(0)
    draws = chance.integers(len(labels), size=(_RESAMPLES, len(labels)))
    correct, among = predicted == labels, (top5 == labels[:, None]).any(1)
    scores, ratios = [], []
    for draw in draws[:_MATRICES]:
        drawn = judging.confusion(predicted[draw], labels[draw], classified)
        scores.append(judging.macro_f1(drawn))
        ratios.append(_precision_recall(drawn))
    low, high = np.quantile(np.array(ratios), (0.025, 0.975), axis=0).round(4).tolist()  # each (2, classes)
    fitted = temperature.temperature(logits, labels)
    return {
        "images": len(labels),
        "accuracy": float(correct.mean()),
        "accuracy_interval": _interval(correct[draws].mean(1)),
        "top5": float(among.mean()),
        "top5_interval": _interval(among[draws].mean(1)),
        "macro_f1": judging.macro_f1(matrix),
        "macro_f1_interval": _interval(np.array(scores)),
        "per_class": {
            name: {
                "images": int(images),
                "precision": round(float(precision[k]), 4),
                "precision_interval": [low[0][k], high[0][k]],
                "recall": round(float(recall[k]), 4),
                "recall_interval": [low[1][k], high[1][k]],
            }
            for k, (name, images) in enumerate(zip(classes, matrix.sum(1), strict=True))
        },
        "temperature": fitted,
        "calibration_error": judging.calibration_error(judging.softmax(logits).max(1), correct),
        "calibration_error_at_temperature": judging.calibration_error(judging.softmax(logits / fitted).max(1), correct),
    }


def agreement(logits: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
    """Return how near answers are to those of another network, as JSON types, with a 95 % interval as in `summary`.

    Args:
        logits: float32 (n, classes).
        answers: Probabilities of the other network, float32 (n, classes).
    """
    same = logits.argmax(1) == answers.argmax(1)
    draws = np.random.default_rng(0).integers(len(same), size=(_RESAMPLES, len(same)))
    return {
        "images": len(same),
        "agreement": float(same.mean()),
        "agreement_interval": _interval(same[draws].mean(1)),
        "divergence": divergence(logits, answers),
    }


def _precision_recall(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall of each class, float64 (classes,)."""
    right = matrix.diagonal()
    precision, recall = (right / np.maximum(1, matrix.sum(axis)) for axis in (0, 1))
    return precision, recall


def _interval(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.quantile(values, (0.025, 0.975))]
