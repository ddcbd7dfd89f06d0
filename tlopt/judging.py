"""What a classifier's answers are worth: the one definition of each figure, in NumPy."""

from __future__ import annotations

import math

import numpy as np

from tlopt.cards.details import AnswerKind

_LEAST = 1e-7  # probability that is told from 0, about the step of float32 below 1
_SURE = 1e-6  # beyond 0 and 1: a kernel's last digit
_CLEAR = 2  # standard errors of a difference that chance does not explain


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    found: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return found


def probabilities(answers: np.ndarray, kind: AnswerKind) -> np.ndarray:
    """Return the probability of each class, float64: the softmax of logits, or what the network says itself.

    Args:
        answers: float (..., classes).
        kind: What the numbers mean.
    """
    if kind == "logits":
        return softmax(answers)
    found: np.ndarray = answers.astype(np.float64)
    return np.exp(found) if kind == "log_probabilities" else found


def are_probabilities(answers: np.ndarray, *, within: float) -> bool:
    """Whether rows of answers, (n, classes), are probabilities whose sums are 1 within a tolerance."""
    return between(answers) and bool(np.abs(answers.sum(1, dtype=np.float64) - 1).max() <= within)


def between(answers: np.ndarray) -> bool:
    """Whether all answers are numbers from 0 to 1."""
    return bool((answers >= -_SURE).all() and (answers <= 1 + _SURE).all())


def as_logits(answers: np.ndarray, kind: AnswerKind) -> np.ndarray:
    """Return the logits that stand behind answers, up to what is added to all of an image's alike.

    Args:
        answers: float (..., classes).
        kind: What the numbers mean.
    """
    if kind in ("logits", "log_probabilities"):
        return answers
    found = np.log(np.clip(answers.astype(np.float64), _LEAST, 1))
    if kind == "sigmoids":
        found -= np.log(np.clip(1 - answers.astype(np.float64), _LEAST, 1))
    logits: np.ndarray = found.astype(np.float32)
    return logits


def mean_of_views(answers: np.ndarray, kind: AnswerKind) -> np.ndarray:
    """Return answers, float32 (n, classes), that say the mean probability over several views of each image.

    Args:
        answers: float (n, views, classes).
        kind: What the numbers mean, before and after.
    """
    mean = probabilities(answers, kind).mean(axis=1)
    if kind in ("logits", "log_probabilities"):
        mean = np.log(np.maximum(mean, np.finfo(np.float64).tiny))
    found: np.ndarray = mean.astype(np.float32)
    return found


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of images with the same class in both; with the true classes, that is the accuracy.

    Args:
        first: int64 (n,), classes.
        second: int64 (n,), classes.
    """
    return float((first == second).mean())


def ahead(correct: np.ndarray, other: np.ndarray) -> bool:
    """Return whether one network answers more of the same images rightly than another, beyond chance.

    Only the images on which one of the two alone is right tell them apart (McNemar, 1947, doi 10.1007/BF02295996).
    Of d such images, chance moves the difference by the square root of d. Ahead is who leads by twice that or more.

    Args:
        correct: bool (n,), where the one is right.
        other: bool (n,), where the other is.
    """
    alone, instead = int((correct & ~other).sum()), int((other & ~correct).sum())
    return alone > instead and alone - instead >= _CLEAR * math.sqrt(alone + instead)


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix, int64 (classes, classes): rows are true classes, columns predicted ones.

    Args:
        predicted: int64 (n,).
        labels: int64 (n,), the true classes.
        classes: Number of classes.
    """
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def macro_f1(matrix: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur in the labels or the answers, as scikit-learn does.

    A class without an image that is answered nevertheless has an F1 of 0 and counts.

    Args:
        matrix: Confusion matrix, (classes, classes).
    """
    right = matrix.diagonal()
    seen = matrix.sum(0) + matrix.sum(1)
    return float((2 * right[seen > 0] / seen[seen > 0]).mean())


def calibration_error(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 15) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy.

    Bins of equal width, weighted by the images in each. C. Guo et al., "On calibration of modern
    neural networks", arXiv 1706.04599.

    Args:
        confidence: float (n,), probability of the predicted class.
        correct: bool (n,).
        bins: Number of bins over 0..1.
    """
    if len(confidence) == 0:
        return 0.0
    places = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(places, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def accuracy_at(confidence: np.ndarray, correct: np.ndarray, coverage: float) -> tuple[float, float]:
    """Return the confidence from which on a share of the images is answered, and the share of these that is right.

    Args:
        confidence: float (n,), probability of the predicted class.
        correct: bool (n,).
        coverage: Share of the images to answer, above 0 and at most 1; images of the same confidence stay together.
    """
    order = np.argsort(-confidence, kind="stable")
    threshold = confidence[order][max(0, math.ceil(coverage * len(order)) - 1)]
    answered = confidence >= threshold
    return float(threshold), float(correct[answered].mean())


def threshold_for(confidence: np.ndarray, correct: np.ndarray, precision: float) -> float | None:
    """Return the lowest confidence from which on at least a share of the answers is right; None if there is none.

    Args:
        confidence: float (n,), probability of the predicted class.
        correct: bool (n,).
        precision: The share wanted.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, right = confidence[order], np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    last = np.append(ranked[1:] < ranked[:-1], True)  # of each confidence: a threshold takes all of one or none
    good = np.flatnonzero(last & (right >= precision))
    return float(ranked[good[-1]]) if len(good) else None


def noise(logits: np.ndarray, reference: np.ndarray) -> float:
    """Return the squared error of logits over the squared size of the reference's, 0 if they are equal.

    The mean of each image's logits is left out: what is added to all of them alike changes no answer.

    Args:
        logits: float (n, classes).
        reference: float (n, classes).
    """
    error, signal = (x - x.mean(1, keepdims=True) for x in (logits - reference, reference))
    return float(np.square(error).sum() / max(float(np.square(signal).sum()), 1e-12))


def decibels(noise: float) -> float:
    """Return a share of noise as a ratio of signal to noise, decibels."""
    return -10 * math.log10(max(noise, 1e-12))
