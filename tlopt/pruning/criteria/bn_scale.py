"""Scales of the normalizations that a channel passes through (network slimming, arXiv 1708.06519)."""

from __future__ import annotations

import torch

from tlopt.pruning.channels import ChannelGroup
from tlopt.pruning.criteria import magnitude

NEEDS = ""
COMPARABLE = False


def score(group: ChannelGroup) -> torch.Tensor:
    """Return the sum of each unit's absolute scales, float32 (units,).

    A group that passes through no normalization is ranked by magnitude.
    """
    norms = [member for member in group.members if member.is_norm]
    if not norms:
        return magnitude.score(group)
    total = torch.zeros(group.units)
    for member in norms:
        total += member.weight().abs().sum(1).float().cpu()
    return total
