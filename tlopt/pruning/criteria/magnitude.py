"""Squared weights of all layers that hold a channel (Li et al., arXiv 1608.08710; grouped as in arXiv 2301.12900)."""

from __future__ import annotations

import torch

from tlopt.pruning.channels import ChannelGroup

NEEDS = ""
COMPARABLE = False


def score(group: ChannelGroup) -> torch.Tensor:
    """Return the sum of the squared weights that belong to each unit, float32 (units,)."""
    total = torch.zeros(group.units)
    for member in group.members:
        if member.is_weighted:
            total += member.weight().square().sum(1).float().cpu()
    return total
