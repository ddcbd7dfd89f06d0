from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tlopt.preprocess import Preprocess
from tlopt.training.teacher import Teacher

STUDENT = Preprocess(size=8)


def seen(own: Preprocess, student: Preprocess, inputs: torch.Tensor) -> np.ndarray:
    """Return what a teacher is fed."""
    found = []

    def answer(array: np.ndarray) -> np.ndarray:
        found.append(array)
        return np.zeros((len(array), 2), np.float32)

    Teacher(answer, own=own, student=student)(inputs)
    return found[0]


def test_a_teacher_of_wide_images_is_not_fed_square_ones():
    assert seen(replace(STUDENT, width=12), STUDENT, torch.randn(2, 3, 8, 8)).shape == (2, 3, 8, 12)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_a_grey_teacher_weighs_the_colors_of_any_student_alike(channels):
    pixels = torch.rand(1, 3, 8, 8)
    grey = Preprocess(size=8, channels="grey", mean=(0.0,), std=(1.0,))
    student = Preprocess(size=8, channels=channels, mean=(0.0,) * 3, std=(1.0,) * 3)
    given = pixels if channels == "rgb" else pixels.flip(1)
    expected = (pixels * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    np.testing.assert_allclose(seen(grey, student, given), expected, atol=1e-3)
