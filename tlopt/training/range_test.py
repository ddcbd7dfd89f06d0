"""The learning-rate range test: what the loss does while the rate rises (arXiv 1506.01186)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from tlopt.images.pixels import Pixels
from tlopt.progress import bar
from tlopt.training import freezing, pace
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.inputs import training_batches
from tlopt.training.loop import Run

_SMOOTHING = 0.9  # share of the running mean that each step keeps
_DIVERGED = 4.0  # times the lowest loss at which the test ends


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """The outcome.

    Args:
        lr: float64 (n,), the classifier's learning rate at each step.
        loss: float64 (n,), smoothed.
        suggested: A tenth of the rate at which the loss was lowest.
    """

    lr: np.ndarray
    loss: np.ndarray
    suggested: float


def range_test(
    model: nn.Module, images: Pixels, settings: Hyperparameters, *, lowest: float, highest: float, steps: int
) -> RangeTest:
    """Train for some steps with a learning rate that rises exponentially; the network is spoilt by it.

    Args:
        model: The network.
        images: Training images.
        settings: Of the training that the rate is for.
        lowest: First learning rate.
        highest: Last learning rate.
        steps: Number of steps; the test ends before if the loss diverges.
    """
    run = Run(model, images, images, settings, None, None)
    freezing.freeze(run.model, below=settings.frozen_stages)
    freezing.set_mode(run.model, below=settings.frozen_stages, frozen_norm=settings.frozen_norm)
    pace.settle(run, below=settings.frozen_stages, steps=steps)
    rates = np.geomspace(lowest, highest, steps)
    losses: list[float] = []
    mean = 0.0
    with bar("Learning-rate range test", steps) as shown:
        while run.done < steps:
            for crops, wanted in training_batches(images, settings, epoch=run.done // run.steps):
                value = run.step(run.forward(), crops, wanted, float(rates[run.done]))
                mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
                losses.append(mean / (1 - _SMOOTHING ** (run.done + 1)))
                run.done += 1
                shown.advance(note=f"loss {losses[-1]:.3f}")
                diverged = not np.isfinite(value) or losses[-1] > _DIVERGED * min(losses)
                if run.done == steps or (diverged and run.done > steps // 10):
                    return _outcome(rates, losses)
    return _outcome(rates, losses)


def _outcome(rates: np.ndarray, losses: list[float]) -> RangeTest:
    loss = np.array([value for value in losses if np.isfinite(value)])
    lr = rates[: len(loss)]
    return RangeTest(lr=lr, loss=loss, suggested=float(f"{lr[int(loss.argmin())] / 10:.2g}"))
