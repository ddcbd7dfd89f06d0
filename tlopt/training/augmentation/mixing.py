"""Blended images: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899).

timm's `Mixup` draws from NumPy's global generator; here each step has its own, so that a resumed run
and a run in several processes see the same blends.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from tlopt.training.hyperparameters import Hyperparameters


def mix(
    inputs: torch.Tensor, targets: torch.Tensor, settings: Hyperparameters, chance: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend each image of a batch with its mirror image in the batch's order.

    With both kinds on, each step uses one of them at random.

    Args:
        inputs: float (n, 3, h, w).
        targets: float (n, classes).
        settings: `mixup` and `cutmix` are the parameters of the Beta distribution.
        chance: Decides everything random.
    """
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(settings, kind) > 0]
    if not kinds:
        return inputs, targets
    kind = kinds[int(chance.integers(len(kinds)))]
    alpha = getattr(settings, kind)
    share = float(chance.beta(alpha, alpha))
    other = inputs.flip(0)
    if kind == "mixup":
        inputs = inputs.lerp(other, 1 - share)
    else:
        height, width = inputs.shape[-2:]
        h, w = (round(side * math.sqrt(1 - share)) for side in (height, width))
        top, left = int(chance.integers(height - h + 1)), int(chance.integers(width - w + 1))
        inputs = inputs.clone(memory_format=torch.preserve_format)
        inputs[..., top : top + h, left : left + w] = other[..., top : top + h, left : left + w]
        share = 1 - h * w / (height * width)
    return inputs, targets.lerp(targets.flip(0), 1 - share)
