"""What a classifier's answers are worth: accuracy, precision, recall, F1, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlopt.nn import calibration

_RESAMPLES = 1000


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the confusion matrix, int64 (classes, classes): rows are true classes, columns predicted ones."""
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)


def macro_f1(matrix: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur in the labels or the answers."""
    right = matrix.diagonal()
    seen = matrix.sum(0) + matrix.sum(1)
    return float((2 * right[seen > 0] / seen[seen > 0]).mean())


def summary(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the metrics of answers as JSON types, with 95 % intervals from the bootstrap.

    Args:
        logits: float32 (n, classes).
        labels: int64 (n,).
        classes: Class names.
    """
    matrix = confusion(logits, labels)
    top5 = np.argsort(-logits, axis=1)[:, :5]
    right = matrix.diagonal()
    with np.errstate(invalid="ignore"):
        precision, recall = (np.nan_to_num(right / matrix.sum(axis)) for axis in (0, 1))
    chance = np.random.default_rng(0)
    draws = chance.integers(len(labels), size=(_RESAMPLES, len(labels)))
    correct = logits.argmax(1) == labels
    scores = [macro_f1(confusion(logits[draw], labels[draw])) for draw in draws[:200]]
    temperature = calibration.temperature(logits, labels)
    return {
        "images": len(labels),
        "accuracy": float(correct.mean()),
        "accuracy_interval": _interval(correct[draws].mean(1)),
        "top5": float((top5 == labels[:, None]).any(1).mean()),
        "macro_f1": macro_f1(matrix),
        "macro_f1_interval": _interval(np.array(scores)),
        "per_class": {
            name: {"images": int(n), "precision": round(float(p), 4), "recall": round(float(r), 4)}
            for name, n, p, r in zip(classes, matrix.sum(1), precision, recall, strict=True)
        },
        "temperature": temperature,
        "calibration_error": calibration.calibration_error(logits, labels),
        "calibration_error_at_temperature": calibration.calibration_error(logits / temperature, labels),
    }


def _interval(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.quantile(values, (0.025, 0.975))]
