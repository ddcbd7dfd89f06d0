"""Which weights are kept: those of the probe, of the fine-tuned network, or between the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tlopt import judging
from tlopt.images.pixels import Pixels
from tlopt.networks import weights
from tlopt.progress import track
from tlopt.training.inputs import predict
from tlopt.training.optimization.losses import divergence
from tlopt.training.outcome import temperature

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the fine-tuned weights
_FEW = 150  # training images, with fewer of which the mean of both is the safer choice


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Weights that might be kept.

    Args:
        share: Of the fine-tuned weights in the mean with the probe's; 0 is the probe alone.
        accuracy: On validation, 0..1; of images without labels, the agreement with the answers to reach.
        loss: Cross-entropy on validation, at the best temperature; of images without labels, the divergence.
    """

    share: float
    accuracy: float
    loss: float


def select(
    model: nn.Module,
    start: Mapping[str, torch.Tensor],
    images: Pixels,
    *,
    device: torch.device,
    usually: float,
    fresh: bool,
) -> tuple[Candidate, list[Candidate]]:
    """Give a fine-tuned network the best of its weights and their means with those it started from, in place.

    Means of the weights before and after fine-tuning often do better than both (arXiv 2109.01903). On a few images
    chance decides among them, and fine-tuning a network for other classes all but always helps. So what is `usual` is
    kept unless others are ahead beyond chance.

    Args:
        model: Fine-tuned.
        start: Its state before fine-tuning, with the probe as classifier.
        images: Validation images.
        device: Where to compute.
        usually: Share to keep unless others are ahead, see `usual`.
        fresh: It started from an untrained classifier. What went on from a network that was already good has no such
            claim: the least loss decides among those alike in accuracy.

    Returns:
        What was kept, and all that were tried.
    """
    tuned = weights.snapshot(model)
    tried, correct = [], []
    for share in track(SHARES, label="Comparing weights", total=len(SHARES)):
        weights.load(model, mean(start, tuned, share))
        logits, labels = predict(model.to(device), images, device=device)
        tried.append(candidate(share, logits, labels, answers=images.answered))
        correct.append(logits.argmax(1) == labels)
    best = unless_beaten(tried, correct, usually) if fresh else best_of(tried, len(images))
    weights.load(model, mean(start, tuned, best.share))
    return best, tried


def usual(images: int, trainings: int) -> float:
    """Return the share of the fine-tuned weights to keep unless validation says otherwise: all, or half of few images.

    A network trained once on fewer than 150 images is less often worse than a regression on all of them if half of its
    weights are those of the probe. The mean of several trainings gains nothing (benchmarks/few_images.py).

    Args:
        images: Trained on.
        trainings: Whose weights are averaged.
    """
    return 1.0 if images >= _FEW or trainings > 1 else 0.5


def unless_beaten(tried: Sequence[Candidate], correct: Sequence[np.ndarray], share: float) -> Candidate:
    """Return the candidate of a share, or the best of those that are ahead of it beyond chance.

    Args:
        tried: The candidates.
        correct: Where each is right, bool (n,), parallel to them.
        share: Of the fine-tuned weights; if none has it, the first candidate stands for it.
    """
    own = next((number for number, one in enumerate(tried) if one.share == share), 0)
    ahead = [one for one, right in zip(tried, correct, strict=True) if judging.ahead(right, correct[own])]
    return max(ahead, key=lambda one: (one.accuracy, -one.loss), default=tried[own])


def best_of(tried: list[Candidate], images: int) -> Candidate:
    """Return the candidate of the least loss among those whose accuracy is the highest but for chance.

    One image more or less says little: what lies within one standard error counts as the same.
    """
    most = max(c.accuracy for c in tried)
    chance = (most * (1 - most) / images) ** 0.5
    return min((c for c in tried if c.accuracy >= most - chance), key=lambda c: c.loss)


def candidate(share: float, logits: np.ndarray, labels: np.ndarray, *, answers: np.ndarray | None = None) -> Candidate:
    """Return a candidate from its answers on validation; images without labels come with the `answers` to reach."""
    accuracy = float((logits.argmax(1) == labels).mean())
    loss = temperature.calibrated_loss(logits, labels) if answers is None else divergence(logits, answers)
    return Candidate(share=share, accuracy=accuracy, loss=loss)


def mean(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Return weights between two networks; what is counted is that of the second."""
    return {
        name: start[name].lerp(tensor, share) if tensor.is_floating_point() else tensor for name, tensor in end.items()
    }
