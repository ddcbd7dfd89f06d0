"""Random changes of color and shape: RandAugment, TrivialAugment and AugMix on Pillow images."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_GREY = (128, 128, 128)

# An operation takes the image and its strength, -1..1; the sign is random where a direction makes sense.
Operation = Callable[[Image.Image, float], Image.Image]


def _affine(coefficients: Callable[[float, int, int], tuple[float, ...]]) -> Operation:
    def apply(image: Image.Image, strength: float) -> Image.Image:
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            coefficients(strength, *image.size),
            resample=Image.Resampling.BILINEAR,
            fillcolor=_GREY,
        )

    return apply


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, strength: kind(image).enhance(1 + 0.9 * strength)


# Ranges as in RandAugment (arXiv 1909.13719), strength 1 being its magnitude 10 (of 10).
OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "rotate": lambda image, s: image.rotate(30 * s, Image.Resampling.BILINEAR, fillcolor=_GREY),
    "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s))),
    "solarize": lambda image, s: ImageOps.solarize(image, 256 - round(256 * abs(s))),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _affine(lambda s, _w, _h: (1, 0.3 * s, 0, 0, 1, 0)),
    "shear_y": _affine(lambda s, _w, _h: (1, 0, 0, 0.3 * s, 1, 0)),
    "translate_x": _affine(lambda s, w, _h: (1, 0, 0.3 * s * w, 0, 1, 0)),
    "translate_y": _affine(lambda s, _w, h: (1, 0, 0, 0, 1, 0.3 * s * h)),
}
# AugMix leaves out what its test corruptions contain.
_MIXED = tuple(name for name in OPERATIONS if name not in ("identity", "color", "contrast", "brightness", "sharpness"))


def apply(image: Image.Image, policy: str, magnitude: float, chance: random.Random) -> Image.Image:
    """Return the image changed by a policy.

    Args:
        image: RGB.
        policy: "randaugment" (two operations at the given strength, arXiv 1909.13719),
            "trivialaugment" (one, of random strength up to the given one, arXiv 2103.10158) or
            "augmix" (a blend of three chains, arXiv 1912.02781).
        magnitude: Strength, 0..10.
        chance: Decides everything random.
    """
    strength = magnitude / 10
    names = tuple(OPERATIONS)
    if policy == "randaugment":
        for _ in range(2):
            image = _one(image, chance.choice(names), strength, chance)
        return image
    if policy == "trivialaugment":
        return _one(image, chance.choice(names), strength * chance.random(), chance)
    return _augmix(image, strength, chance)


def _one(image: Image.Image, name: str, strength: float, chance: random.Random) -> Image.Image:
    return OPERATIONS[name](image, strength if chance.random() < 0.5 else -strength)


def _augmix(image: Image.Image, strength: float, chance: random.Random, chains: int = 3) -> Image.Image:
    shares = [chance.gammavariate(1, 1) for _ in range(chains)]  # normalized: a draw from Dirichlet(1, 1, 1)
    blended = np.zeros((image.height, image.width, 3), np.float32)
    for share in shares:
        changed = image
        for _ in range(chance.randint(1, 3)):
            changed = _one(changed, chance.choice(_MIXED), strength * chance.random(), chance)
        blended += np.asarray(changed, np.float32) * (share / sum(shares))
    kept = chance.betavariate(1, 1)
    result = kept * np.asarray(image, np.float32) + (1 - kept) * blended
    return Image.fromarray(np.clip(np.round(result), 0, 255).astype(np.uint8))
