"""What happened in a training run, epoch by epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tlopt.training.hyperparameters import Precision

_CLEAR = 2  # standard errors of a difference between two accuracies


@dataclass(kw_only=True)
class History:
    """What happened in a training run.

    Args:
        epochs: One record per epoch: "epoch", "loss", "lr", "val_loss", "val_accuracy", "seconds"
            and "images_per_s"; "training", too, if there were several.
            Those of validation are left out where there are no images for it.
        best: Index of the epoch whose weights the network has at the end.
        precision: Of the arithmetic.
        trial: How the precision was chosen, as JSON types; empty if it was named.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best: int = -1
    precision: Precision = "fp32"
    trial: dict[str, Any] = field(default_factory=dict)

    def last_will_do(self, images: int) -> bool:
        """Return whether the best epoch is ahead of the last by no more than chance explains.

        The best of several epochs on a few images is the luckiest of them: on 30 images, ten points are chance.

        Args:
            images: Number of validation images.
        """
        one, other = (self.epochs[n]["val_accuracy"] for n in (self.best, -1))
        both = (one + other) / 2
        return one - other <= _CLEAR * math.sqrt(2 * both * (1 - both) / images)


def score(record: dict[str, float]) -> tuple[float, float]:
    """Return what decides which epoch is best: accuracy on validation, then the loss."""
    return record["val_accuracy"], -record["val_loss"]
