"""What every quantizer plugin has to keep to, whatever it is."""

from __future__ import annotations

import numpy as np
import pytest

from tlopt import registry
from tlopt.quantization.calibration.histogram import Histogram
from tlopt.quantization.grid import INT8, UINT8

QUANTIZERS = registry.names("quantizers")
RANDOM = np.random.default_rng(0)
DISTRIBUTIONS = {
    "normal": RANDOM.normal(0, 1, 50_000),
    "after a ReLU": np.maximum(RANDOM.normal(0, 1, 50_000), 0),
    "clipped at 6": np.clip(RANDOM.normal(1, 3, 50_000), 0, 6),
    "an outlier": np.append(RANDOM.normal(0, 0.1, 50_000), 100),
    "mostly negative": RANDOM.normal(-5, 1, 50_000),
    "one value": np.full(100, 2.5),
    "nothing but zeros": np.zeros(100),
    "tiny": RANDOM.normal(0, 1e-20, 1000),
    "huge": RANDOM.normal(0, 1e20, 1000),
}


def histogram(values: np.ndarray) -> Histogram:
    found = Histogram()
    for part in np.array_split(values.astype(np.float32), 5):
        found.add(part)
    return found


@pytest.mark.parametrize("grid", [INT8, UINT8], ids=["int8", "uint8"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_range_holds_zero_and_lies_inside_the_values(quantizer, name, grid):
    found = histogram(DISTRIBUTIONS[name])
    low, high = registry.load("quantizers", quantizer).choose(found, grid)
    assert found.low <= low <= 0 <= high <= found.high
    fitted = grid.fit(low, high)
    assert fitted.scale > 0
    assert grid.low <= fitted.zero <= grid.high


@pytest.mark.parametrize("grid", [INT8, UINT8], ids=["int8", "uint8"])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_normal_distribution_keeps_30_db(quantizer, grid):
    values = DISTRIBUTIONS["normal"]
    fitted = grid.fit(*registry.load("quantizers", quantizer).choose(histogram(values), grid))
    error = values - fitted.rounded(values)
    assert 10 * np.log10(np.mean(values**2) / np.mean(error**2)) > 30


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_choice_does_not_depend_on_the_order_of_the_batches(quantizer):
    values = DISTRIBUTIONS["an outlier"]
    choose = registry.load("quantizers", quantizer).choose
    assert choose(histogram(values), UINT8) == choose(histogram(values[::-1].copy()), UINT8)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_quantizer_says_in_one_line_what_it_does(quantizer):
    first = (registry.load("quantizers", quantizer).__doc__ or "").partition("\n")[0]
    assert first.endswith(".")
    assert len(first) <= 100
