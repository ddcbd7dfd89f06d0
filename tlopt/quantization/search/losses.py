"""What a network with some float blocks loses: labels of a classifier, or the exactness of other outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlopt import judging
from tlopt.cards.details import AnswerKind, Output
from tlopt.outputs import Answer, Errors, thinned

Run = Callable[[np.ndarray], Any]
Inputs = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What a network has lost against the float one.

    Args:
        drop: What the limit is for: accuracy, other labels, or the share of noise in the worst output.
        flips: Share of labels that differ; of other networks the same as `drop`.
        noise: Share of noise in the logits, or in the worst output.
    """

    drop: float
    flips: float
    noise: float


class OfLabels:
    """Judges a classifier."""

    def __init__(self, float_: Run, inputs: Inputs, labels: np.ndarray | None, answers: AnswerKind) -> None:
        """Remember what the float network answers.

        Args:
            float_: It.
            inputs: Batches of images, the same ones at each call.
            labels: int64 (n,), theirs; None if they are not known.
            answers: What the numbers mean.
        """
        self._inputs, self._labels, self._answers = inputs, labels, answers
        self._reference = self._logits(float_)

    def __call__(self, run: Run) -> Loss:
        """Return what another network loses."""
        logits = self._logits(run)
        labels, before, truth = logits.argmax(1), self._reference.argmax(1), self._labels
        flips = 1 - judging.agreement(labels, before)
        drop = flips if truth is None else judging.agreement(before, truth) - judging.agreement(labels, truth)
        noise = judging.noise(*(judging.as_logits(found, self._answers) for found in (logits, self._reference)))
        return Loss(drop=drop, flips=flips, noise=noise)

    def _logits(self, run: Run) -> np.ndarray:
        return np.concatenate([run(inputs) for inputs in self._inputs()])


class OfOutputs:
    """Judges any other network by the error of each output."""

    def __init__(self, float_: Run, inputs: Inputs, outputs: Sequence[Output]) -> None:
        """Remember what the float network answers; of large outputs, some of the values.

        Args:
            float_: It: every output of each image.
            inputs: Batches of images, the same ones at each call.
            outputs: Of the card.
        """
        self._inputs, self._outputs = inputs, tuple(outputs)
        self._reference = list(self._answers(float_))

    def __call__(self, run: Run) -> Loss:
        """Return what another network loses."""
        errors = Errors(self._outputs)
        for own, answer in zip(self._reference, self._answers(run), strict=True):
            errors.add(own, answer)
        noise = errors.noise()
        return Loss(drop=noise, flips=noise, noise=noise)

    def _answers(self, run: Run) -> Iterable[Answer]:
        for inputs in self._inputs():
            yield from (thinned(answer, self._outputs) for answer in run(inputs))
