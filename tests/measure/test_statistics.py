from __future__ import annotations

import numpy as np
import pytest

from tlopt.measure.statistics import mann_whitney, mcnemar, mean_interval, paired_drop, wilson


def test_wilson_agrees_with_published_intervals():
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3: to four digits.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_stays_within_zero_and_one():
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_mcnemar_is_the_two_sided_binomial_test():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(10, 0) == pytest.approx(2 * 0.5**10)
    assert mcnemar(1, 9) == mcnemar(9, 1) == pytest.approx(2 * 11 / 1024)


def test_mcnemar_hardly_changes_where_the_normal_distribution_takes_over():
    # 1,000 changed photos are where the exact sum ends; the two differ by less than 1 % there.
    assert mcnemar(460, 540) == pytest.approx(mcnemar(460, 539), rel=0.12)
    assert mcnemar(460, 540) == pytest.approx(0.01243, rel=0.01)


def test_paired_drop_contains_the_drop_and_zero_when_nothing_changed():
    low, high = paired_drop(12, 4, 400)
    assert low < 8 / 400 < high
    low, high = paired_drop(0, 0, 400)
    assert low < 0 < high


def test_mann_whitney_finds_a_shift_and_no_shift():
    random = np.random.default_rng(0)
    base = random.normal(10, 0.2, 30)
    assert mann_whitney(base, random.normal(10.5, 0.2, 30)) < 1e-6
    assert mann_whitney(base, random.normal(9.5, 0.2, 30)) > 0.999
    assert mann_whitney(np.ones(8), np.ones(8)) == 0.5


def test_mann_whitney_agrees_with_the_exact_distribution():
    # All of the second sample above the first: U is largest, exact p = 1 / C(10, 5) = 0.00397.
    assert mann_whitney(np.arange(5.0), np.arange(5.0, 10.0)) == pytest.approx(0.00397, abs=0.0025)


def test_mann_whitney_rarely_cries_wolf():
    random = np.random.default_rng(1)
    alarms = sum(mann_whitney(random.exponential(1, 10), random.exponential(1, 10)) < 0.05 for _ in range(2000))
    # 5 % of 2,000 is 100; three standard deviations of that count are 29.
    assert 71 <= alarms <= 129


def test_the_mean_of_a_few_measurements_lies_in_its_interval_19_times_in_20():
    random = np.random.default_rng(0)
    for count in (2, 5, 10):
        within = [low <= 3 <= high for low, high in map(mean_interval, random.normal(3, 2, (4000, count)))]
        assert abs(np.mean(within) - 0.95) < 0.011  # three standard errors of 4,000 draws
