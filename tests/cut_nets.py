"""Random cuts of networks, and the same networks with zeros in the place of what is cut."""

import copy

import torch


def thinned(network, share, seed=0):
    """Return which units stay when a random share of each group's goes."""
    random = torch.Generator().manual_seed(seed)
    kept = {}
    for group in network.groups:
        stays = torch.ones(group.units, dtype=torch.bool)
        stays[torch.randperm(group.units, generator=random)[: int(group.units * share)]] = False
        kept[group.name] = stays
    return kept


def zeroed(model, network, kept):
    """Return a copy with the weights set to zero that take in what does not stay."""
    copied = copy.deepcopy(model)
    for group in network.groups:
        for member in group.members:
            if member.role == "in":
                weight = copied.get_submodule(member.name).weight.data
                places = member.positions[~kept[group.name]].flatten()
                weight.index_fill_(1, places[places < weight.shape[1]], 0)
    return copied
