"""E4M3 against PyTorch's own type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlopt.quantization import float8


def test_all_codes_are_those_of_torch():
    codes = np.array([c for c in range(256) if c & 127 != 127], np.uint8)
    expected = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(float8.decode(codes), expected)
    np.testing.assert_array_equal(float8.encode(expected), codes)


def test_rounding_is_that_of_torch_ties_included():
    random = np.random.default_rng(0)
    middles = (float8.VALUES[1:] + float8.VALUES[:-1]) / 2
    values = np.concatenate([random.normal(0, 50, 5000), middles, -middles]).clip(-448, 448).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(float8.decode(float8.encode(values)), expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_nearest_number_is_that_of_the_nearest_code(kind):
    random = np.random.default_rng(0)
    middles = (float8.VALUES[1:] + float8.VALUES[:-1]) / 2
    drawn = random.normal(0, 50, 5000), random.normal(0, 0.01, 5000)
    values = np.concatenate([*drawn, middles, -middles, float8.VALUES, [0, 600, -1e9]]).astype(kind)
    found = float8.nearest(values)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, float8.decode(float8.encode(values)))


def test_what_is_too_large_saturates():
    np.testing.assert_array_equal(float8.decode(float8.encode(np.array([1e9, -1e9, np.inf]))), [448, -448, 448])
