"""How many images a step has."""

from __future__ import annotations

import pytest

from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.inputs import batch_size


@pytest.mark.parametrize(("images", "size"), [(5, 5), (170, 16), (639, 16), (640, 32), (100_000, 32)])
def test_few_images_are_trained_in_small_batches(images, size):
    assert batch_size(images, Hyperparameters()) == size


@pytest.mark.parametrize(("images", "size"), [(170, 32), (100_000, 32), (20, 20)])
def test_a_batch_that_is_asked_for_is_kept(images, size):
    assert batch_size(images, Hyperparameters(batch=32)) == size


def test_each_process_has_as_many():
    assert batch_size(170, Hyperparameters(), world=3) == 15
