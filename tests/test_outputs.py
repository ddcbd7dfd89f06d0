"""The error of outputs, whatever they mean."""

from __future__ import annotations

import numpy as np
import pytest

from tlopt import outputs
from tlopt.cards.details import Output
from tlopt.outputs import Errors

FLOATS = Output(name="mask", dtype="float32", shape=(3, 4), batched=True)
WHOLE = Output(name="classes", dtype="int64", shape=(4,), batched=True)
BOXES = Output(name="boxes", dtype="float32", shape=(0, 4), batched=False)
SCORES = Output(name="scores", dtype="float32", shape=(0,), batched=False)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def test_equal_outputs_have_no_error():
    errors = Errors((FLOATS, WHOLE))
    errors.add((random(3, 4), np.arange(4)), (random(3, 4), np.arange(4)))
    first, second = errors.found()
    assert (first.snr_db, first.cosine, first.largest, first.equal) == (120, 1, 0, None)
    assert (second.snr_db, second.equal, second.rows) == (None, 1, None)
    assert errors.noise() == 0


def test_the_figures_are_those_of_all_images_together():
    reference, candidate = random(5, 3, 4), random(5, 3, 4) + 0.1 * random(5, 3, 4, seed=1)
    errors = Errors((FLOATS,))
    for own, other in zip(reference, candidate, strict=True):
        alone = Errors((FLOATS,))
        alone.add((own,), (other,))
        errors.merge(alone)
    (found,) = errors.found()
    difference = (candidate - reference).astype(np.float64)
    noise = (difference**2).sum() / ((reference - reference.mean()) ** 2).sum()
    assert found.snr_db == pytest.approx(-10 * np.log10(noise), abs=0.01)
    cosine = (reference * candidate).sum() / np.sqrt((reference**2).sum() * (candidate**2).sum())
    assert found.cosine == pytest.approx(cosine, abs=1e-5)
    assert found.largest == pytest.approx(np.abs(difference).max())
    assert outputs.worst(errors.found()) == found.snr_db


def test_whole_numbers_count_by_the_share_that_is_equal():
    errors = Errors((FLOATS, WHOLE))
    errors.add((random(3, 4), np.array([1, 2, 3, 4])), (random(3, 4), np.array([1, 2, 3, 5])))
    assert errors.found()[1].equal == 0.75
    assert errors.noise() == 0.25
    assert outputs.worst(errors.found()) == pytest.approx(6.02, abs=0.01)
    assert outputs.said(errors.found()[1]) == "classes 75.0% equal"


def test_a_constant_offset_of_a_constant_output_is_an_error_of_its_size():
    errors = Errors((FLOATS,))
    errors.add((np.full((3, 4), 2.0),), (np.full((3, 4), 2.2),))
    assert errors.found()[0].snr_db == pytest.approx(20, abs=0.01)


def test_zeros_that_become_something_are_infinitely_far():
    errors = Errors((FLOATS,))
    errors.add((np.zeros((3, 4)),), (np.ones((3, 4)),))
    assert errors.found()[0].snr_db == -120


def rows(count, seed=0):
    return random(count, 4, seed=seed) * 10, random(count, seed=seed + 1)


def test_rows_in_another_order_are_the_same_rows():
    boxes, scores = rows(6)
    order = np.array([3, 1, 0, 5, 2, 4])
    errors = Errors((BOXES, SCORES))
    errors.add((boxes, scores), (boxes[order], scores[order]))
    assert [found.snr_db for found in errors.found()] == [120, 120]
    assert [found.rows for found in errors.found()] == [1, 1]


def test_a_row_that_is_lost_is_an_error_of_its_size():
    boxes, scores = rows(6)
    errors = Errors((BOXES, SCORES))
    errors.add((boxes, scores), (boxes[1:], scores[1:]))
    first, _ = errors.found()
    assert first.rows == pytest.approx(10 / 11, abs=1e-4)
    lost = (boxes[0].astype(np.float64) ** 2).sum() / ((boxes - boxes.mean()) ** 2).sum()
    assert first.snr_db == pytest.approx(-10 * np.log10(lost), abs=0.05)
    assert outputs.said(first).endswith("(91% of the rows in both)")


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (3, 0), (2100, 2090)])
def test_any_number_of_rows_is_compared(counts):
    errors = Errors((BOXES, SCORES))
    errors.add(rows(counts[0]), rows(counts[1], seed=5))
    found = errors.found()
    assert all(np.isfinite(one.snr_db) for one in found)
    assert counts != (0, 0) or errors.noise() == 0


def test_rows_of_another_width_are_all_strangers():
    errors = Errors((BOXES,))
    errors.add((random(3, 4),), (random(3, 5),))
    assert errors.found()[0].rows == 0


def test_what_a_search_keeps_of_an_output_is_the_same_part_for_each_image():
    large = Output(name="mask", dtype="float32", shape=(400, 400), batched=True)
    first, second = (outputs.thinned((random(400, 400, seed=seed), random(2, 4)), (large, BOXES)) for seed in (0, 1))
    assert first[0].shape == second[0].shape
    assert 40_000 < first[0].size < 90_000
    assert first[1].shape == (2, 4)


def test_an_output_is_told_in_words():
    assert outputs.in_words(WHOLE) == "classes (n, 4) int64"
    assert outputs.in_words(BOXES) == "boxes (any, 4)"
