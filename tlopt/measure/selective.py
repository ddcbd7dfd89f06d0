"""What an artifact is worth where it may decline to answer: it answers only if its confidence is high enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlopt import judging
from tlopt.measure.answers.predictions import Outputs
from tlopt.reports import Report

_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True, kw_only=True)
class Selective:
    """A confidence that was chosen for a wanted precision, and what comes of it.

    Args:
        wanted: Share of the answers that is to be right.
        threshold: Confidence from which on an answer is given; None if none is high enough.
        chosen_on: Validation images that it was chosen on.
        coverage: Share of the judged images that are answered.
        precision: Share of these answers that is right; None if there are none.
    """

    wanted: float
    threshold: float | None
    chosen_on: int
    coverage: float
    precision: float | None

    def sentence(self) -> str:
        """Return it in words."""
        if self.threshold is None:
            return (
                f"On the {self.chosen_on} validation images no confidence makes {self.wanted:.1%} of the answers right."
            )
        outcome = "none of them is answered" if self.precision is None else f"{self.precision:.1%} of these are right"
        return (
            f"From a confidence of {self.threshold:.3f}, {self.wanted:.1%} of the answers on {self.chosen_on} "
            f"validation images are right. Of the images judged here, {self.coverage:.1%} are answered, and {outcome}."
        )


def selective(validation: Outputs, judged: Outputs, wanted: float) -> Selective:
    """Choose a confidence on some images, and judge it on others.

    Args:
        validation: Answers on the images to choose on.
        judged: Answers on the images to judge on.
        wanted: Share of the answers that is to be right.
    """
    threshold = judging.threshold_for(_confidence(validation), validation.correct, wanted)
    answered = np.zeros(len(judged.labels), bool) if threshold is None else _confidence(judged) >= threshold
    return Selective(
        wanted=wanted,
        threshold=threshold,
        chosen_on=len(validation.labels),
        coverage=float(answered.mean()),
        precision=float(judged.correct[answered].mean()) if answered.any() else None,
    )


def by_coverage(outputs: Outputs) -> Report:
    """Return how right the surest answers are, for several shares of the images."""
    confidence, correct = _confidence(outputs), outputs.correct
    rows = []
    for coverage in _COVERAGES:
        threshold, accuracy = judging.accuracy_at(confidence, correct, coverage)
        rows.append({"answered": coverage, "confidence_from": threshold, "accuracy": accuracy})
    return Report(title="If only the surest are answered", rows=tuple(rows))


def _confidence(outputs: Outputs) -> np.ndarray:
    found: np.ndarray = outputs.probabilities.max(axis=1)
    return found
