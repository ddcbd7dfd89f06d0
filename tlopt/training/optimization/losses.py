"""Losses of a classifier. All of them take soft targets, so that blended images and smoothing need no special case."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from tlopt.training.hyperparameters import Hyperparameters

# Logits and targets, both float (n, classes), to a scalar.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_BETA = 0.999  # of the effective number of samples; the middle of the range the paper tries


def make(settings: Hyperparameters, counts: Sequence[int], device: torch.device) -> Loss:
    """Return the loss that the settings name, without label smoothing (see `smooth`).

    "logit-adjusted" adds the logarithm of each class's share to its logit, in training only, so that the network
    itself need not learn that common classes are common (arXiv 2007.07314).

    Args:
        settings: Of the training run.
        counts: Training images of each class.
        device: Where the logits lie.
    """
    images = torch.tensor(counts, dtype=torch.float32, device=device).clamp(min=1)
    if settings.loss == "focal":
        return lambda logits, targets: focal(logits, targets, gamma=settings.focal_gamma)
    if settings.loss == "bce":
        return binary_cross_entropy
    if settings.loss == "class-balanced":
        weights = class_balance(images)
        return lambda logits, targets: cross_entropy(logits, targets * weights)
    if settings.loss == "logit-adjusted":
        prior = (images / images.sum()).log()
        return lambda logits, targets: cross_entropy(logits + prior, targets)
    return cross_entropy


def smooth(targets: torch.Tensor, amount: float) -> torch.Tensor:
    """Return targets with `amount` of their mass spread evenly over the classes (arXiv 1512.00567)."""
    return targets if amount == 0 else targets * (1 - amount) + amount / targets.shape[1]


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy."""
    return -(targets * functional.log_softmax(logits, dim=1)).sum(1).mean()


def focal(logits: torch.Tensor, targets: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Return the focal loss: cross-entropy that weighs each class by ``(1 - p) ** gamma`` (arXiv 1708.02002)."""
    log_p = functional.log_softmax(logits, dim=1)
    return -(targets * (1 - log_p.exp()) ** gamma * log_p).sum(1).mean()


def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of one yes-or-no question per class, summed over the classes (arXiv 2110.00476)."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()


def class_balance(images: torch.Tensor) -> torch.Tensor:
    """Return class weights of mean 1, inverse to the effective number of samples (arXiv 1901.05555).

    Args:
        images: float (classes,), training images of each class.
    """
    weights = (1 - _BETA) / (1 - _BETA**images)
    return weights * len(weights) / weights.sum()


def distillation(logits: torch.Tensor, teacher: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Return the divergence from the teacher's softened answers, times the temperature squared (arXiv 1503.02531)."""
    own = functional.log_softmax(logits / temperature, dim=1)
    target = functional.log_softmax(teacher / temperature, dim=1)
    return functional.kl_div(own, target, reduction="batchmean", log_target=True) * temperature**2


def divergence(logits: np.ndarray, answers: np.ndarray) -> float:
    """Return the mean divergence of a network's answers from others (Kullback-Leibler), in nats.

    Args:
        logits: float32 (n, classes).
        answers: Probabilities, float32 (n, classes).
    """
    own = functional.log_softmax(torch.from_numpy(logits).double(), dim=1)
    return float(functional.kl_div(own, torch.from_numpy(answers).double(), reduction="batchmean"))
