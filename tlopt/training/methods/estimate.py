"""What a network would reach on other input, estimated without training its layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tlopt.images.pixels import Pixels
from tlopt.networks import head
from tlopt.training import distributed
from tlopt.training.methods import probe

_FITTED, _JUDGED = 1000, 1000  # images, at most: an estimate takes seconds


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Two networks on the same validation images.

    Args:
        accuracy: Of a regression on the features of the network in question, 0..1.
        beside: Of the other network, as it is.
        images: Validation images.
    """

    accuracy: float
    beside: float
    images: int


def estimate(
    network: nn.Module, own: tuple[Pixels, Pixels], beside: nn.Module, other: tuple[Pixels, Pixels], *, seed: int
) -> Estimate:
    """Fit a classifier to a network's features, and judge it beside another network.

    The layers below the classifier stay as they are, so that it takes one pass over the images. Training all layers
    reaches more as a rule.

    Args:
        network: The network in question.
        own: Its training and validation images.
        beside: The other network.
        other: The same images, as the other network takes them.
        seed: Of the choice of images, if there are many.
    """
    device = distributed.device()
    train, val = own
    fitted_to = probe.chosen(train.folder.labels, _FITTED, seed=seed)
    judged_on = probe.chosen(val.folder.labels, _JUDGED, seed=seed)
    inputs, labels = probe.features(network, train, device=device, positions=fitted_to, label="Estimating the rival")
    fitted = probe.fit(
        inputs,
        torch.from_numpy(labels),
        classes=len(train.folder.classes),
        seed=seed,
        bias=head.find(network).biased,
    )
    held, truth = probe.features(network, val, device=device, positions=judged_on)
    also, again = probe.features(beside, other[1], device=device, positions=judged_on)
    return Estimate(
        accuracy=_accuracy(fitted.logits(held), truth),
        beside=_accuracy(head.find(beside.to("cpu")).answers(also.to("cpu")), again),
        images=len(truth),
    )


def _accuracy(logits: torch.Tensor, labels: np.ndarray) -> float:
    return float((logits.argmax(1).cpu().numpy() == labels).mean())
