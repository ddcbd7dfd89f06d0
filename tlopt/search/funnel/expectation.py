"""What a network is expected to get right: what validation images say of it, and what the ranking said, together.

A few hundred validation images are not enough to tell two networks apart that differ by a point. The ranking saw more
images: those for training, too, each judged by a regression that was fitted to others. What fine-tuning adds to that is
much the same for all networks of a search, so the ranking tells their order; see benchmarks/results/ranking.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from tlopt.search.features import Score
from tlopt.search.funnel.asked import standard_error
from tlopt.search.funnel.halving import finished
from tlopt.search.funnel.results import Results, Trained

# What fine-tuning adds to the accuracy on frozen features differs by so much between networks, a standard deviation.
# In ranking.md, chance explains all of it on solar cells, and all but 0.9 points on clothes.
SPREAD = 0.01


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What the ranking makes of the accuracy of a contender's variants.

    Args:
        shift: What is added to the accuracy on validation.
        error: Standard error of the sum.
        images: Number of images that the ranking saw.
    """

    shift: float
    error: float
    images: int


def expectations(results: Results, images: int) -> Mapping[str, Expectation]:
    """Return contender -> what the ranking makes of its accuracy; empty if there are no two to compare.

    Both accuracies are weighed by their variances. The ranking's has that of what fine-tuning adds as well.

    Args:
        results: What is known.
        images: Number of validation images.
    """
    both = {key: (one, score) for key, one in _best(results).items() if (score := _score(results, key)) is not None}
    if len(both) < 2 or not images:
        return {}
    added = statistics.mean(one.accuracy - score.accuracy for one, score in both.values())
    return {key: _expectation(one.accuracy, score, added, images) for key, (one, score) in both.items()}


def _best(results: Results) -> dict[str, Trained]:
    """Return contender -> its best training that is over."""
    found: dict[str, Trained] = {}
    for key, one in finished(results):
        found.setdefault(key, one)
    return found


def _score(results: Results, key: str) -> Score | None:
    """Return what the ranking said; None if the network's own classifier answered, or nothing did."""
    score = results.scores.get(key)
    return score if score is not None and score.folds and score.images else None


def _expectation(accuracy: float, score: Score, added: float, images: int) -> Expectation:
    validation = _weight(standard_error(accuracy, images))
    ranking = _weight(math.hypot(standard_error(score.accuracy, score.images), SPREAD))
    share = ranking / (validation + ranking)
    return Expectation(
        shift=share * (score.accuracy + added - accuracy),
        error=1 / math.sqrt(validation + ranking),
        images=score.images,
    )


def _weight(error: float) -> float:
    """Return how much an accuracy counts; one without an error is of images that are all right, or all wrong."""
    return 1 / max(error, 1e-3) ** 2
