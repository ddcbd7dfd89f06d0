"""From a decoded image to a training crop: random crop, mirroring, the policies and erasing.

Everything random comes from one seed per image, so that a batch is the same whichever thread or
process makes it.
"""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image

from tlopt.preprocess import Preprocess
from tlopt.training.augmentation import policies
from tlopt.training.hyperparameters import Hyperparameters

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_TRIES = 10
_RATIOS = (math.log(3 / 4), math.log(4 / 3))


def view(image: np.ndarray, preprocess: Preprocess, settings: Hyperparameters, seed: int) -> np.ndarray:
    """Return a random training crop of an image.

    Args:
        image: uint8 (h, w, 3), RGB, as `Preprocess.resized` gives it.
        preprocess: Gives the size and the filter.
        settings: Which changes are made.
        seed: Of this image in this step.

    Returns:
        uint8 (size, size, 3).
    """
    chance = random.Random(seed)
    size = preprocess.size
    if settings.crop < 1:
        top, left, height, width = crop_box(image.shape[0], image.shape[1], settings.crop, chance)
        picture = Image.fromarray(image[top : top + height, left : left + width])
        if picture.size != (size, size):
            picture = picture.resize((size, size), _FILTERS[preprocess.interpolation])
    else:
        top, left = (round((side - size) / 2) for side in image.shape[:2])
        picture = Image.fromarray(image[top : top + size, left : left + size])
    if settings.policy != "none":
        picture = policies.apply(picture, settings.policy, settings.magnitude, chance)
    pixels = np.asarray(picture)
    if settings.flip != "none" and chance.random() < 0.5:
        pixels = pixels[:, ::-1]
    if settings.flip == "both" and chance.random() < 0.5:
        pixels = pixels[::-1]
    if settings.erasing and chance.random() < settings.erasing:
        pixels = erased(pixels, chance)
    return pixels


def crop_box(height: int, width: int, smallest: float, chance: random.Random) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random crop (arXiv 1409.4842).

    Its area is a share of the image's, at least `smallest`, and its sides stand at 3:4 to 4:3. An
    image too long for any such crop gives its central part.
    """
    for _ in range(_TRIES):
        area = height * width * chance.uniform(smallest, 1)
        ratio = math.exp(chance.uniform(*_RATIOS))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return chance.randint(0, height - h), chance.randint(0, width - w), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def erased(pixels: np.ndarray, chance: random.Random) -> np.ndarray:
    """Return the image with a random rectangle filled with noise (arXiv 1708.04896)."""
    height, width = pixels.shape[:2]
    for _ in range(_TRIES):
        area = height * width * chance.uniform(0.02, 1 / 3)
        ratio = math.exp(chance.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            top, left = chance.randint(0, height - h), chance.randint(0, width - w)
            result = pixels.copy()
            noise = np.frombuffer(chance.randbytes(h * w * 3), np.uint8).reshape(h, w, 3)
            result[top : top + h, left : left + w] = noise
            return result
    return pixels
