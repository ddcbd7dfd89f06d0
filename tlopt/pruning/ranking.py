"""Which channels of a network matter least."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import nn

from tlopt.pruning import analysis, gates, norms
from tlopt.pruning.channels import Network

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def ranked(
    model: nn.Module, size: int, criterion: ModuleType, shown: Callable[[str], Batches] | None, *, seed: int
) -> tuple[Network, dict[str, torch.Tensor]]:
    """Return the network's groups and the score of each of their units.

    Args:
        model: The network.
        size: Side of its input.
        criterion: How channels are ranked: a plug-in.
        shown: Name of a progress bar -> inputs and labels, the same at each call; None if there are no images.
        seed: Of everything random.
    """
    network = analysis.analyze(model, size)
    groups = network.groups
    if shown is not None:
        norms.rebase(model, (inputs for inputs, _ in shown("Measuring")))
        if criterion.NEEDS:
            groups = gates.measure(model, groups, shown("Ranking channels"), criterion.NEEDS, seed=seed)
    return network, {group.name: criterion.score(group) for group in groups}
