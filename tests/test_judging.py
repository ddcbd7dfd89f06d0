from __future__ import annotations

import numpy as np
import pytest

from tlopt import judging


def test_calibration_error_of_hand_made_bins():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False, True, False])
    # |0.95 - 0.75| on four photos and |0.55 - 0.5| on two.
    assert judging.calibration_error(confidence, correct) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)


def test_macro_f1_is_that_of_scikit_learn_when_a_class_is_answered_that_no_image_has():
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, predicted = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 2, 1, 1, 0, 0])
    matrix = judging.confusion(predicted, labels, 4)
    np.testing.assert_array_equal(matrix[:3, :3], sklearn.confusion_matrix(labels, predicted))
    assert matrix.shape == (4, 4)
    assert judging.macro_f1(matrix) == pytest.approx(sklearn.f1_score(labels, predicted, average="macro"))


def test_agreement_is_a_share_of_the_images():
    assert judging.agreement(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75


def test_noise_leaves_out_what_is_added_to_all_logits_of_an_image():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    assert judging.noise(logits + 7, logits) < 1e-20
    signal = logits - logits.mean(1, keepdims=True)
    assert judging.noise(logits + 0.1 * signal, logits) == pytest.approx(0.01)
    assert judging.decibels(0.01) == pytest.approx(20)


def test_softmax_takes_large_logits():
    np.testing.assert_allclose(judging.softmax(np.array([[1000.0, 1000.0]], np.float32)), [[0.5, 0.5]])


def test_a_share_of_the_surest_answers_is_judged():
    confidence, correct = np.array([0.9, 0.5, 0.8, 0.8]), np.array([True, False, True, False])
    assert judging.accuracy_at(confidence, correct, 1.0) == (0.5, 0.5)
    assert judging.accuracy_at(confidence, correct, 0.25) == (0.9, 1.0)
    threshold, accuracy = judging.accuracy_at(confidence, correct, 0.5)  # both of 0.8, or none
    assert (threshold, accuracy) == (0.8, pytest.approx(2 / 3))


@pytest.mark.parametrize(("precision", "threshold"), [(0.5, 0.5), (0.6, 0.8), (0.9, 0.9), (1.0, 0.9)])
def test_the_lowest_confidence_with_a_precision_is_found(precision, threshold):
    confidence, correct = np.array([0.9, 0.5, 0.8, 0.8]), np.array([True, False, True, False])
    assert judging.threshold_for(confidence, correct, precision) == threshold


def test_no_confidence_is_made_up():
    assert judging.threshold_for(np.array([0.9, 0.5]), np.array([False, True]), 0.9) is None


@pytest.mark.parametrize(
    ("alone", "instead", "expected"),
    [
        (4, 0, True),
        (3, 0, False),
        (8, 1, True),
        (7, 2, False),
        (0, 9, False),
        (0, 0, False),
        (60, 40, True),
        (59, 41, False),
    ],
)
def test_who_is_ahead_beyond_chance(alone, instead, expected):
    both = 30  # images on which both are right say nothing
    correct = np.repeat([True, False, True], [alone, instead, both])
    other = np.repeat([False, True, True], [alone, instead, both])
    assert judging.ahead(correct, other) is expected
