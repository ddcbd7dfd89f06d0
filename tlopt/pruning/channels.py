"""Which channels of a network can only be removed together, and their removal.

For each group of channels this is plain data: the positions that each of them has in each layer.
`tlopt.pruning.analysis` finds the groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from tlopt.networks import noted, weights

Role = Literal["out", "in"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A layer, or a parameter of its own, that holds the channels of a group.

    Args:
        name: Name of the module or parameter in the model.
        target: The module or parameter.
        role: "out" where the channels are the layer's outputs or pass through it one by one
            (normalizations, depthwise convolutions); "in" where the layer takes them in.
        positions: int64 (units, k): the k channels of the layer that each unit stands for.
        axis: Axis of the channels, of a bare parameter.
    """

    name: str
    target: nn.Module | nn.Parameter
    role: Role
    positions: torch.Tensor
    axis: int = 0

    @property
    def is_weighted(self) -> bool:
        """Whether the member multiplies by a matrix or filters: a convolution or linear layer."""
        return isinstance(self.target, nn.Conv2d | nn.Linear)

    @property
    def is_norm(self) -> bool:
        """Whether the member is a normalization with a scale per channel."""
        return not isinstance(self.target, nn.Parameter | nn.Conv2d | nn.Linear) and (
            getattr(self.target, "weight", None) is not None
        )

    def weight(self) -> torch.Tensor:
        """Return the weights that belong to each unit: (units, …), flattened."""
        tensor = self.target if isinstance(self.target, nn.Parameter) else self.target.weight
        assert isinstance(tensor, torch.Tensor)
        axis = self.axis if isinstance(self.target, nn.Parameter) else _axis(self, "weight")
        positions = self.positions
        if self.role == "in" and isinstance(self.target, nn.Conv2d):
            # A grouped convolution holds one slice of weights for the same channel of all its groups.
            positions = positions[:, : max(1, positions.shape[1] // self.target.groups)]
        picked = tensor.detach().index_select(axis, positions.flatten().to(tensor.device))
        return picked.movedim(axis, 0).reshape(len(positions), -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelGroup:
    """Channels of several layers that are kept or removed together, unit by unit.

    Args:
        name: Name of the layer that makes them; of a part of its channels with a colon and a number.
        units: What can be removed one by one. A unit is one channel of `name`; under a grouped
            convolution, one channel of each of its groups.
        width: Channels of that layer.
        members: Every layer that holds them.
        gates: float32 (images, units), or None if the criterion does not ask for them: for each
            image, the derivative of an objective with respect to a factor of 1 on the unit
            wherever it is taken in (see `tlopt.pruning.gates`).
    """

    name: str
    units: int
    width: int
    members: tuple[Member, ...]
    gates: torch.Tensor | None = None

    @property
    def layer(self) -> str:
        """The layer that makes the channels, or a part of them."""
        return self.name.partition(":")[0]

    @property
    def channels_per_unit(self) -> int:
        """Channels of the layer that makes them, in each unit."""
        return self.width // self.units


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A convolution or linear layer and what it works on.

    Args:
        name: Its name in the model.
        module: The layer.
        width_in: Its input channels.
        width_out: Its output channels.
        size: Height and width of its input, pixels; of a linear layer, 1 and its rows per image.
        area: Places per image at which its weights are applied.
        outputs: Group -> channels of this layer's output for each unit of the group.
        inputs: Group -> channels of this layer's input for each unit of the group.
    """

    name: str
    module: nn.Conv2d | nn.Linear
    width_in: int
    width_out: int
    size: tuple[int, int]
    area: int
    outputs: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_depthwise(self) -> bool:
        """Whether each output channel is computed from one input channel of its own."""
        module = self.module
        return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1

    def widths(self, removed: Mapping[str, int]) -> tuple[int, int]:
        """Return input and output channels when so many units are removed from each group."""
        outputs = self.width_out - sum(count * removed.get(group, 0) for group, count in self.outputs.items())
        inputs = self.width_in - sum(count * removed.get(group, 0) for group, count in self.inputs.items())
        return (outputs if self.is_depthwise else inputs), outputs

    def macs(self, removed: Mapping[str, int]) -> int:
        """Return the multiply-adds per image when so many units are removed from each group."""
        inputs, outputs = self.widths(removed)
        if isinstance(self.module, nn.Linear):
            return inputs * outputs * self.area
        groups = outputs if self.is_depthwise else self.module.groups
        kernel = self.module.kernel_size[0] * self.module.kernel_size[1]
        return inputs // groups * outputs * kernel * self.area


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """The prunable groups and the layers of a model.

    Args:
        groups: What can be cut.
        layers: Convolutions and linear layers, as they run.
        whole: Layers whose channels stay -> why.
    """

    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    whole: Mapping[str, str] = field(default_factory=dict)

    def macs(self, removed: Mapping[str, int] | None = None) -> int:
        """Return the multiply-adds per image of convolutions and linear layers."""
        return sum(layer.macs(removed or {}) for layer in self.layers)


def _axis(member: Member, key: str) -> int:
    return 1 if member.role == "in" and key == "weight" else 0


def cut(groups: Iterable[ChannelGroup], kept: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    """Remove channels from a model, in place.

    Args:
        groups: Of this model, as `analyze` found them; they are stale afterwards.
        kept: Group name -> bool (units,), which units stay. Groups left out stay whole.
        model: The model.
    """
    removed: dict[tuple[str, str, int], list[torch.Tensor]] = {}
    for group in groups:
        if group.name not in kept:
            continue
        gone = ~kept[group.name]
        assert not gone.all(), group.name
        for member in group.members:
            places = member.positions[gone].flatten()
            if isinstance(member.target, nn.Parameter):
                owner, _, key = member.name.rpartition(".")
                removed.setdefault((owner, key, member.axis), []).append(places)
                continue
            for key, axis in _tensors(member):
                removed.setdefault((member.name, key, axis), []).append(places)
    modules = dict(model.named_modules())
    for (name, key, axis), gone_places in removed.items():
        _drop(modules[name], key, axis, torch.cat(gone_places))
    for name in {name for name, _, _ in removed}:
        weights.resize(modules[name])
    noted.renew(model)


def _tensors(member: Member) -> list[tuple[str, int]]:
    """Return the member's tensors that hold the channels, with the axis of the channels in each."""
    assert isinstance(member.target, nn.Module)
    if member.role == "in":
        return [("weight", 1)]
    own = {**dict(member.target.named_parameters(recurse=False)), **dict(member.target.named_buffers(recurse=False))}
    return [(key, 0) for key, tensor in own.items() if tensor.dim() > 0]


def _drop(module: nn.Module, key: str, axis: int, places: torch.Tensor) -> None:
    tensor = getattr(module, key)
    keep = torch.ones(tensor.shape[axis], dtype=torch.bool)
    # Of a grouped convolution the weights hold only the first group's inputs along axis 1.
    keep[places[places < len(keep)]] = False
    smaller = tensor.detach().index_select(axis, keep.nonzero().flatten().to(tensor.device)).clone()
    if isinstance(tensor, nn.Parameter):
        setattr(module, key, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
    else:
        module.register_buffer(key, smaller, persistent=key not in module._non_persistent_buffers_set)
