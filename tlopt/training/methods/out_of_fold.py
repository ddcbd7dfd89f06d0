"""How well a linear classifier of frozen features does on images that it was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from tlopt.progress import track
from tlopt.training.methods.probe import FOLDS, PENALTIES, folds, solve


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers to images, each by a classifier that had seen none of its content.

    Args:
        predicted: int64 (n,).
        penalty: The L2 penalty with the lowest loss.
        loss: That loss: the mean cross-entropy of all images.
        folds: Number of parts that were left out in turn.
    """

    predicted: np.ndarray = field(repr=False)
    penalty: float
    loss: float
    folds: int


def out_of_fold(
    inputs: torch.Tensor, labels: np.ndarray, contents: np.ndarray, *, classes: int, seed: int, bias: bool = True
) -> Answers | None:
    """Fit a multinomial logistic regression to all folds but one, in turn, and let it answer for that one.

    The penalty is the one with the lowest loss on the images left out. It is one number of seven, so that choosing
    it on the images it is judged by makes the accuracy look better by far less than its interval is wide.

    Args:
        inputs: Features, float32 (n, features).
        labels: int64 (n,).
        contents: int64 (n,): images of one number are copies, and stay in one fold.
        classes: Number of classes.
        seed: Of the folds.
        bias: Fit one, too.

    Returns:
        The answers; None if a class has one image only, copies aside.
    """
    fold = dealt(labels, contents, seed=seed)
    count = int(fold.max()) + 1
    if count < 2:
        return None
    truth = torch.from_numpy(labels)
    losses = dict.fromkeys(PENALTIES, 0.0)
    predicted = {penalty: np.empty(len(labels), np.int64) for penalty in PENALTIES}
    for held in track(range(count), label="Fitting the regression", total=count):
        inside, outside = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        fitted, judged = _standardized(inputs[inside], inputs[outside], centered=bias)
        start: tuple[torch.Tensor, torch.Tensor] | None = None
        # From the strongest penalty down, each solution is a good start for the next.
        for penalty in sorted(PENALTIES, reverse=True):
            start = solve(fitted, truth[inside], classes, penalty, start=start, exact=False, bias=bias)
            logits = judged @ start[0].T + start[1]
            losses[penalty] += float(functional.cross_entropy(logits, truth[outside], reduction="sum"))
            predicted[penalty][outside] = logits.argmax(1).numpy()
    penalty = min(losses, key=lambda value: losses[value])
    return Answers(predicted=predicted[penalty], penalty=penalty, loss=losses[penalty] / len(labels), folds=count)


def dealt(labels: np.ndarray, contents: np.ndarray, *, seed: int, most: int = FOLDS) -> np.ndarray:
    """Return the fold of each image, stratified by class, int64 (n,).

    Args:
        labels: int64 (n,).
        contents: Parallel to the labels: images of one content are copies, and stay in one fold.
        seed: Of the draw.
        most: Number of folds. There are fewer if a class has fewer images, copies aside.
    """
    _, first, place = np.unique(contents, return_index=True, return_inverse=True)
    fold: np.ndarray = folds(labels[first], seed, most=most)[place]
    return fold


def _standardized(fitted: torch.Tensor, judged: torch.Tensor, *, centered: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale features by the mean and spread of those that are fitted to."""
    mean = fitted.mean(0) if centered else torch.zeros(fitted.shape[1])
    std = fitted.std(0, correction=0)
    # A feature that never varies says nothing; any scale will do.
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return (fitted - mean) / std, (judged - mean) / std
