"""No ranking at all: what the other criteria have to beat."""

from __future__ import annotations

import zlib

import torch

from tlopt.pruning.channels import ChannelGroup

NEEDS = ""
COMPARABLE = False


def score(group: ChannelGroup) -> torch.Tensor:
    """Return random numbers in 0..1 that depend on the group's name and width alone, float32 (units,)."""
    seed = zlib.crc32(f"{group.name}/{group.units}".encode())
    return torch.rand(group.units, generator=torch.Generator().manual_seed(seed))
