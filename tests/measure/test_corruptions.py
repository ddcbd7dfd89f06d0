from __future__ import annotations

import numpy as np
import pytest

from tlopt.measure.corruptions import CORRUPTIONS, STRENGTHS

PIXELS = np.random.default_rng(0).integers(40, 200, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_stronger_corruption_changes_more_and_each_is_the_same_again(name):
    before = PIXELS.copy()
    found = [CORRUPTIONS[name](PIXELS, strength, 5) for strength in range(1, STRENGTHS + 1)]
    assert (before == PIXELS).all()
    assert all(one.dtype == np.uint8 and one.shape == PIXELS.shape for one in found)
    distance = [float(np.square(one.astype(float) - PIXELS).mean()) for one in found]
    assert distance == sorted(distance)
    assert distance[0] > 0
    assert (CORRUPTIONS[name](PIXELS, 2, 5) == found[1]).all()


def test_each_image_gets_noise_of_its_own():
    assert (CORRUPTIONS["noise"](PIXELS, 1, 1) != CORRUPTIONS["noise"](PIXELS, 1, 2)).any()
