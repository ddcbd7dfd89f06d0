"""Calibrated confidence: one temperature, fitted on validation images."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

_RANGE = (0.05, 20.0)


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the number that logits should be divided by, for the least cross-entropy (arXiv 1706.04599).

    Args:
        logits: float32 (n, classes).
        labels: int64 (n,).
    """
    scores, truth = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    low, high = np.log(_RANGE)
    # In the logarithm of the temperature the loss has one minimum: golden-section search finds it.
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        losses = [float(functional.cross_entropy(scores / np.exp(at), truth)) for at in (left, right)]
        if losses[0] <= losses[1]:
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def calibrated_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross-entropy at the best temperature."""
    return float(calibrated_losses(logits, labels).mean())


def calibrated_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each image at the temperature that is best for all, float64 (n,)."""
    scaled = torch.from_numpy(logits).double() / temperature(logits, labels)
    losses: np.ndarray = functional.cross_entropy(scaled, torch.from_numpy(labels), reduction="none").numpy()
    return losses
