"""The 8-bit float E4M3: four bits of exponent, three of mantissa; Micikevicius et al., arXiv:2209.05433."""

from __future__ import annotations

import numpy as np

LARGEST = 448.0
# Positive numbers in the order of their codes 0..126; code 127 is NaN, and bit 7 the sign.
_CODES = np.arange(127)
_EXPONENT, _MANTISSA = _CODES >> 3, _CODES & 7
VALUES = np.where(_EXPONENT == 0, _MANTISSA * 2.0**-9, (8 + _MANTISSA) * 2.0 ** (np.maximum(_EXPONENT, 1) - 10.0))


def encode(values: np.ndarray) -> np.ndarray:
    """Return the codes of the nearest numbers, uint8; ties go to the even code, what is too large to ±448."""
    magnitude = np.abs(values).astype(np.float64)
    middles = (VALUES[1:] + VALUES[:-1]) / 2
    below = np.searchsorted(middles, magnitude, side="left")
    above = np.searchsorted(middles, magnitude, side="right")
    codes = np.where(below % 2 == 0, below, above)
    signed: np.ndarray = (codes | (np.signbit(values) << 7)).astype(np.uint8)
    return signed


def decode(codes: np.ndarray) -> np.ndarray:
    """Return the numbers that the codes stand for, float32."""
    numbers: np.ndarray = np.where(codes & 128, -1.0, 1.0) * VALUES[np.minimum(codes & 127, 126)]
    return numbers.astype(np.float32)


def nearest(values: np.ndarray) -> np.ndarray:
    """Return the nearest numbers themselves, in the type of the values; as `encode` and `decode` give them, faster."""
    _, exponent = np.frexp(values)  # a magnitude in [2**(exponent - 1), 2**exponent)
    step = np.ldexp(values.dtype.type(1), np.maximum(exponent, -5) - 4)
    found: np.ndarray = np.clip(np.round(values / step) * step, -LARGEST, LARGEST)
    return found
