import random

import numpy as np
import pytest
from PIL import Image

from tlopt.preprocess import Preprocess
from tlopt.training.augmentation import crops, policies
from tlopt.training.hyperparameters import Hyperparameters

PREPROCESS = Preprocess(size=24)
PLAIN = {"crop": 1.0, "flip": "none"}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (27, 40, 3), dtype=np.uint8)


def view(image, seed=0, **settings):
    return crops.view(image, PREPROCESS, Hyperparameters(**settings), seed)


def test_nothing_random_gives_the_central_crop(image):
    expected = PREPROCESS.crop(Image.fromarray(image))
    np.testing.assert_array_equal(view(image, **PLAIN), expected)


def test_the_seed_decides_everything(image):
    settings = {"policy": "augmix", "erasing": 0.5, "flip": "both", "crop": 0.2}
    np.testing.assert_array_equal(view(image, 3, **settings), view(image, 3, **settings))
    assert any((view(image, 3, **settings) != view(image, seed, **settings)).any() for seed in range(4, 8))


def test_flips_mirror_the_crop(image):
    plain = view(image, **PLAIN)
    seen = {view(image, seed, crop=1.0, flip="both").tobytes() for seed in range(40)}
    assert seen == {flipped.tobytes() for flipped in (plain, plain[:, ::-1], plain[::-1], plain[::-1, ::-1])}


def test_crop_boxes_lie_in_the_image_and_keep_the_smallest_share():
    chance = random.Random(0)
    for _ in range(300):
        height, width = chance.randint(20, 200), chance.randint(20, 200)
        top, left, h, w = crops.crop_box(height, width, 0.3, chance)
        assert top >= 0
        assert left >= 0
        assert top + h <= height
        assert left + w <= width
        assert h * w > 0.25 * min(height, width) ** 2
        # Rounding to whole pixels moves the ratio a little.
        assert 0.7 < w / h < 1.45


def test_a_strip_gives_its_central_part():
    assert crops.crop_box(10, 1000, 0.9, random.Random(0)) == (0, 495, 10, 10)


def test_erasing_changes_one_rectangle(image):
    pixels = np.full((24, 24, 3), 7, np.uint8)
    changed = (crops.erased(pixels, random.Random(0)) != pixels).any(2)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.95
    assert 0.01 < changed.mean() < 0.4


@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_every_operation_returns_an_image_of_the_same_size_at_any_strength(image, name):
    picture = Image.fromarray(image)
    for strength in (-1.0, -0.3, 0.0, 0.7, 1.0):
        result = policies.OPERATIONS[name](picture, strength)
        assert (result.size, result.mode) == (picture.size, "RGB")


@pytest.mark.parametrize("name", ["rotate", "color", "contrast", "brightness", "shear_x", "translate_y", "posterize"])
def test_strength_zero_changes_nothing(image, name):
    picture = Image.fromarray(image)
    np.testing.assert_array_equal(np.asarray(policies.OPERATIONS[name](picture, 0.0)), image)


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment", "augmix"])
def test_every_policy_changes_images(image, policy):
    changed = [view(image, seed, **PLAIN, policy=policy, magnitude=9.0) for seed in range(6)]
    assert sum((one != view(image, **PLAIN)).any() for one in changed) >= 4
