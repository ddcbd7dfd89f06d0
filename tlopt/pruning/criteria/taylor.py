"""First-order change of the loss when a channel is set to zero (Molchanov et al., arXiv 1611.06440)."""

from __future__ import annotations

import torch

from tlopt.pruning.channels import ChannelGroup

NEEDS = "labels"
COMPARABLE = True


def score(group: ChannelGroup) -> torch.Tensor:
    """Return the mean over the images of the absolute first-order change, float32 (units,)."""
    assert group.gates is not None
    return group.gates.abs().mean(0)
