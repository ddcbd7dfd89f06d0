"""Squared change of the logits when a channel is set to zero, to first order; needs no labels.

Fisher pruning (arXiv 1801.05787, for coupled channels arXiv 2108.00708) squares each image's derivative
of the loss, which vanishes where the network is sure and right. The change of the logits does not.
"""

from __future__ import annotations

import torch

from tlopt.pruning.channels import ChannelGroup

NEEDS = "outputs"
COMPARABLE = True


def score(group: ChannelGroup) -> torch.Tensor:
    """Return the mean over the images of the squared change, float32 (units,)."""
    assert group.gates is not None
    return group.gates.square().mean(0)
