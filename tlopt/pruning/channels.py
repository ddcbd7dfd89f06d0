"""Which channels of a network can only be removed together, and their removal.

The dependency graph is Torch-Pruning's (DepGraph, arXiv 2301.12900); what is made of it here is
plain data: for each group of channels, the positions that each of them has in each layer.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch_pruning
from torch import nn

from tlopt.errors import StageError
from tlopt.networks import weights

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
        name: Name of the layer that makes them.
        units: What can be removed one by one. A unit is one channel of `name`; under a grouped
            convolution, one channel of each of its groups.
        width: Channels of `name`.
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
    """The prunable groups and the layers of a model."""

    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]

    def macs(self, removed: Mapping[str, int] | None = None) -> int:
        """Return the multiply-adds per image of convolutions and linear layers."""
        return sum(layer.macs(removed or {}) for layer in self.layers)


def analyze(model: nn.Module, size: int) -> Network:
    """Find the groups of channels that can be removed together, and the layers they pass through.

    The network's input channels and the classifier's outputs are in no group.

    Args:
        model: A classifier of float32 (n, 3, size, size).
        size: Side of the square input, pixels.

    Raises:
        StageError: The model's graph cannot be traced.
    """
    layers = _layers(model, size)
    if not layers:
        raise StageError("The model has no convolution and no linear layer to prune.")
    shadow = copy.deepcopy(model).eval().requires_grad_(True)
    device = next(shadow.parameters()).device
    images = torch.zeros(1, 3, size, size, device=device)
    # It warns of parameters outside of known layers (layer scale), which are handled below.
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(shadow, images, verbose=False)
        found = graph.get_all_groups(
            ignored_layers=[shadow.get_submodule(layers[-1].name)], root_module_types=(nn.Conv2d, nn.Linear)
        )
        names = {module: name for name, module in shadow.named_modules()}
        names |= {parameter: name for name, parameter in shadow.named_parameters()}
        groups = [group for items in found if (group := _group(model, graph, items, names)) is not None]
    return Network(groups=tuple(groups), layers=tuple(_connect(layer, groups) for layer in layers))


def _layers(model: nn.Module, size: int) -> list[Layer]:
    """Return the convolutions and linear layers in the order in which they run."""
    found: dict[str, Layer] = {}

    def note(name: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            area = output.numel() // module.weight.shape[0]
            height, width = inputs[0].shape[-2:] if isinstance(module, nn.Conv2d) else (1, area)
            found[name] = Layer(
                name=name,
                module=module,
                width_in=module.weight.shape[1] * getattr(module, "groups", 1),
                width_out=module.weight.shape[0],
                size=(height, width),
                area=area,
            )

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    mode = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    return list(found.values())


def _connect(layer: Layer, groups: Iterable[ChannelGroup]) -> Layer:
    ends: dict[str, dict[str, int]] = {"out": {}, "in": {}}
    for group in groups:
        for member in group.members:
            if member.name == layer.name:
                ends[member.role][group.name] = member.positions.shape[1]
    return replace(layer, outputs=ends["out"], inputs=ends["in"])


def _group(model: nn.Module, graph: Any, items: Any, names: Mapping[Any, str]) -> ChannelGroup | None:
    """Return Torch-Pruning's group as plain data, or None if it cannot be cut cleanly."""
    root = items[0].dep.target.module
    width = root.weight.shape[0]
    blocks = _blocks(items)
    if len(blocks) > 1 or any(width % count for count in blocks):
        return None
    per_unit = next(iter(blocks), 1)
    units = width // per_unit
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    members = []
    for item in items:
        target = item.dep.target.module
        if target not in names:
            continue  # a bare operation: it has nothing to cut
        name = names[target]
        if isinstance(target, nn.ConvTranspose2d | nn.MultiheadAttention | nn.Embedding):
            return None
        positions = _positions(item.idxs, item.root_idxs, width, units)
        if positions is None:
            return None
        passes = isinstance(target, nn.Parameter) or graph.is_out_channel_pruning_fn(item.dep.handler)
        held = parameters[name] if isinstance(target, nn.Parameter) else modules[name]
        if isinstance(held, nn.Module) and not any(True for _ in held.parameters(recurse=False)):
            continue
        axis = item.dep.target.pruning_dim if isinstance(target, nn.Parameter) else 0
        members.append(
            Member(name=name, target=held, role="out" if passes else "in", positions=positions, axis=axis % held.dim())
            if isinstance(held, nn.Parameter)
            else Member(name=name, target=held, role="out" if passes else "in", positions=positions)
        )
    return ChannelGroup(name=names[root], units=units, width=width, members=tuple(members))


def _blocks(items: Any) -> set[int]:
    """Return the numbers of blocks into which grouped layers divide the channels."""
    found = set()
    for item in items:
        module = item.dep.target.module
        if isinstance(module, nn.Conv2d) and 1 < module.groups < module.out_channels:
            found.add(module.groups)
        if isinstance(module, nn.GroupNorm):
            found.add(module.num_groups)
    return found - {1}


def _positions(own: Sequence[int], roots: Sequence[int], width: int, units: int) -> torch.Tensor | None:
    """Return (units, k), the layer's channels for each unit; None if units differ in their number."""
    channels: list[list[int]] = [[] for _ in range(units)]
    for position, root in zip(own, roots, strict=True):
        if root >= width:
            return None
        channels[root % units].append(position)
    if len({len(places) for places in channels}) != 1:
        return None
    return torch.tensor([sorted(places) for places in channels], dtype=torch.int64)


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
