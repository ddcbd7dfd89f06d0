"""Which channels of a network matter least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import torch
from torch import nn

from tlopt.pruning import gates, norms
from tlopt.pruning.channels import ChannelGroup

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def ranked(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    criterion: ModuleType,
    shown: Callable[[str], Batches] | None,
    *,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Return the score of each unit of a network's groups.

    Args:
        model: The network.
        groups: Of this network, as it is now.
        criterion: How channels are ranked: a plug-in.
        shown: Name of a progress bar -> inputs and labels, the same at each call; None if there are no images.
        seed: Of everything random.
    """
    if shown is not None:
        norms.rebase(model, (inputs for inputs, _ in shown("Measuring")))
        if criterion.NEEDS:
            groups = gates.measure(model, groups, shown("Ranking channels"), criterion.NEEDS, seed=seed)
    return {group.name: criterion.score(group) for group in groups}
