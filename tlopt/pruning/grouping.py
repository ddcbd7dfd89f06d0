"""From a dependency graph of Torch-Pruning to groups of channels as plain data.

The graph says which channels of which layers hang together. Here it is walked once for each layer, a channel at a
time: the library's own walk goes through a channel again for each way that leads to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch_pruning._helpers import _HybridIndex

from tlopt.pruning.channels import ChannelGroup, Member

_PARTS = 16  # into which a forward pass may split the channels of a layer


@dataclass(eq=False)
class Reached:
    """Where the channels of a layer lead to.

    Attributes:
        node: The layer, parameter or operation, of Torch-Pruning.
        handler: How it would be cut there: at its outputs or at its inputs.
        roots: Channel there -> channel of the layer where the walk began.
    """

    node: Any
    handler: Any
    roots: dict[int, int] = field(default_factory=dict)


def reached(graph: Any, root: nn.Module, channels: Iterable[int]) -> list[Reached]:
    """Return all that has to go together with outputs of a layer; the layer itself comes first.

    Args:
        graph: Torch-Pruning's dependency graph.
        root: A layer in it.
        channels: Of the layer.
    """
    handler = graph.get_pruner_of_module(root).prune_out_channels
    node = graph.module2node[root]
    found: dict[tuple[int, Any], Reached] = {}

    def new(node: Any, handler: Any, indices: Sequence[Any]) -> list[Any]:
        place = found.get((id(node), handler), Reached(node, handler))
        fresh = [index for index in indices if index.idx not in place.roots]
        if fresh:
            found[id(node), handler] = place
        for index in fresh:
            place.roots.setdefault(index.idx, index.root_idx)
        return fresh

    waiting = [(node, handler, new(node, handler, [_HybridIndex(idx=i, root_idx=i) for i in channels]))]
    while waiting:
        node, handler, indices = waiting.pop()
        for edge in node.dependencies:
            if not edge.is_triggered_by(handler):
                continue
            there = indices
            for mapping in edge.index_mapping:
                there = there if mapping is None else mapping(there)
            if fresh := new(edge.target, edge.handler, there):
                waiting.append((edge.target, edge.handler, fresh))
    return list(found.values())


def ways(model: nn.Module, graph: Any, places: Sequence[Reached], names: Mapping[Any, str]) -> list[list[ChannelGroup]]:
    """Return how the channels of a layer may be cut: the finest way first; none if there is no clean one.

    Where the forward pass splits the channels, each part may lose channels by itself, or all parts may have to lose
    as many. Which of both the network bears is for a trial to find out.

    Args:
        model: The network.
        graph: Torch-Pruning's dependency graph of a copy.
        places: Where the channels lead to; the layer itself first.
        names: Modules and parameters of the copy -> their names.
    """
    root = places[0].node.module
    width = root.weight.shape[0]
    blocks = _blocks(places)
    per_unit = math.lcm(*blocks)  # one channel of each block of any layer
    if width % per_unit:
        return []
    units = width // per_unit
    found = _members(model, graph, places, names, width, units)
    if found is None:
        return []
    parts: dict[tuple[int, ...], list[int]] = {}
    for unit in range(units):
        counts = tuple(len(channels[unit]) for _, channels in found)
        if counts[0]:  # the walk began at this one
            parts.setdefault(counts, []).append(unit)
    if len(parts) > _PARTS:
        return []
    every = [_group(names[root], found, [[unit] for unit in part], i if len(parts) > 1 else None, per_unit)
             for i, part in enumerate(parts.values())]  # fmt: skip
    if len(parts) == 1 or len({len(part) for part in parts.values()}) > 1:
        return [every]
    together = [list(unit) for unit in zip(*parts.values(), strict=True)]
    return [every, [_group(names[root], found, together, None, per_unit * len(parts))]]


def _group(
    name: str,
    found: Sequence[tuple[Member, list[list[int]]]],
    units: Sequence[Sequence[int]],
    part: int | None,
    per_unit: int,
) -> ChannelGroup:
    """Return a group whose units are one or several of those that were found."""
    members = []
    for member, channels in found:
        places = [sorted(place for one in unit for place in channels[one]) for unit in units]
        if places[0]:
            members.append(_with_positions(member, torch.tensor(places, dtype=torch.int64)))
    return ChannelGroup(
        name=name if part is None else f"{name}:{part}",
        units=len(units),
        width=len(units) * per_unit,
        members=tuple(members),
    )


def _with_positions(member: Member, positions: torch.Tensor) -> Member:
    return Member(name=member.name, target=member.target, role=member.role, positions=positions, axis=member.axis)


def _members(
    model: nn.Module, graph: Any, places: Sequence[Reached], names: Mapping[Any, str], width: int, units: int
) -> list[tuple[Member, list[list[int]]]] | None:
    """Return the members, and for each unit the channels of each; None if they cannot be cut cleanly."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    found = []
    for place in places:
        target = place.node.module
        if target not in names:
            continue  # a bare operation: it has nothing to cut
        name = names[target]
        if isinstance(target, nn.ConvTranspose2d | nn.MultiheadAttention | nn.Embedding):
            return None
        passes = isinstance(target, nn.Parameter) or graph.is_out_channel_pruning_fn(place.handler)
        held = parameters[name] if isinstance(target, nn.Parameter) else modules[name]
        if isinstance(held, nn.Module) and not any(True for _ in held.parameters(recurse=False)):
            continue
        channels: list[list[int]] = [[] for _ in range(units)]
        last = _width(held, "out" if passes else "in", place)
        for position, start in place.roots.items():
            if start is None or start >= width or position >= last:
                return None
            channels[start % units].append(position)
        axis = place.node.pruning_dim % held.dim() if isinstance(held, nn.Parameter) else 0
        member = Member(
            name=name, target=held, role="out" if passes else "in", positions=torch.zeros(units, 0), axis=axis
        )
        found.append((member, channels))
    return found


def _blocks(places: Sequence[Reached]) -> set[int]:
    """Return the numbers of blocks into which grouped layers divide the channels."""
    found = set()
    for place in places:
        module = place.node.module
        if isinstance(module, nn.Conv2d) and 1 < module.groups < module.out_channels:
            found.add(module.groups)
        if isinstance(module, nn.GroupNorm):
            found.add(module.num_groups)
    return found - {1}


def _width(held: nn.Module | nn.Parameter, role: str, place: Reached) -> int:
    """Return how many channels a layer or parameter has where a group enters it."""
    if isinstance(held, nn.Parameter):
        return int(held.shape[place.node.pruning_dim])
    weight = held.weight
    if not isinstance(weight, torch.Tensor):
        return max(len(tensor) for tensor in held.parameters(recurse=False))
    return weight.shape[1] * getattr(held, "groups", 1) if role == "in" else len(weight)
