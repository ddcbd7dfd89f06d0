"""How sure a measured number is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

Z95 = NormalDist().inv_cdf(0.975)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, by Wilson's score.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22 (1927).
    """
    if total == 0:
        return (0.0, 1.0)
    share, weight = hits / total, Z95**2 / total
    middle = (share + weight / 2) / (1 + weight)
    half = Z95 * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    # At the ends the formula gives 0 and 1 exactly, and rounding a little less or more.
    return (0.0 if hits == 0 else middle - half, 1.0 if hits == total else middle + half)


def mcnemar(broken: int, mended: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    It asks how likely so uneven a count is if a change is as likely to break a prediction as to
    mend one. Q. McNemar, Psychometrika 12 (1947), with the binomial distribution.

    Args:
        broken: Images right before and wrong after.
        mended: Images wrong before and right after.
    """
    total, fewer = broken + mended, min(broken, mended)
    if total == 0:
        return 1.0
    tail = sum(math.comb(total, i) for i in range(fewer + 1))
    # Whole numbers to the end: 2 ** -total would underflow.
    return min(1.0, float(2 * tail / 2**total)) if total < 1000 else _mcnemar_normal(broken, mended)


def _mcnemar_normal(broken: int, mended: int) -> float:
    """Return the p-value by the normal distribution, with the correction for continuity."""
    distance = max(0.0, abs(broken - mended) - 1) / math.sqrt(broken + mended)
    return 2 * (1 - NormalDist().cdf(distance))


def paired_drop(broken: int, mended: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy lost between two predictions of the same images.

    The Wald interval with Agresti and Min's adjustment: half an image is added to each of the four
    cells of the paired table. A. Agresti, Y. Min, Statistics in Medicine 24 (2005).
    """
    b, c, n = broken + 0.5, mended + 0.5, total + 2
    middle = (b - c) / n
    half = Z95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return (max(-1.0, middle - half), min(1.0, middle + half))


def mann_whitney(first: np.ndarray, second: np.ndarray) -> float:
    """Return the p-value of "the second sample tends to be larger", one-sided.

    Normal approximation with the corrections for ties and continuity, for eight values a side or
    more. H. B. Mann, D. R. Whitney, Annals of Mathematical Statistics 18 (1947).

    Args:
        first: float (n,).
        second: float (m,).
    """
    n, m = len(first), len(second)
    values = np.concatenate([first, second])
    unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # The mean rank of each group of equal values.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    u = ranks[n:].sum() - m * (m + 1) / 2
    total = n + m
    ties = ((counts**3 - counts).sum()) / (total * (total - 1))
    spread = math.sqrt(n * m / 12 * (total + 1 - ties))
    if len(unique) == 1 or spread == 0:
        return 0.5
    return 1 - NormalDist().cdf((u - n * m / 2 - 0.5) / spread)


# Student's quantiles of 97.5 %, for 1 to 9 degrees of freedom.
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of a few measurements, by Student's distribution.

    "Student" (W. S. Gosset), "The probable error of a mean", Biometrika 6 (1908).

    Args:
        values: Two to ten measurements, each taken anew.
    """
    found = np.asarray(values, np.float64)
    half = _STUDENT[len(found) - 2] * float(found.std(ddof=1)) / math.sqrt(len(found))
    return (float(found.mean()) - half, float(found.mean()) + half)
