"""Finding the channels of a network that can only be removed together.

The dependency graph is Torch-Pruning's (DepGraph, arXiv 2301.12900). What it says is checked against the
layers, and then by cuts of a copy (`tlopt.pruning.proof`).
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch_pruning
from torch import nn

from tlopt.errors import PluginError, StageError
from tlopt.networks import head
from tlopt.pruning import proof
from tlopt.pruning.channels import ChannelGroup, Layer, Member, Network

log = logging.getLogger(__name__)


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
    groups, whole = _groups(model, size, ignored=_classifier(model, layers))
    sound, broken = proof.proven(model, groups, size)
    return Network(groups=sound, layers=tuple(_connect(layer, sound) for layer in layers), whole={**whole, **broken})


def _classifier(model: nn.Module, layers: Sequence[Layer]) -> tuple[str, ...]:
    try:
        return head.find(model).names
    except PluginError:
        return (layers[-1].name,)


def _groups(model: nn.Module, size: int, *, ignored: Sequence[str]) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Return Torch-Pruning's groups, and the layers of those that cannot be cut cleanly, with the reason.

    Raises:
        StageError: It cannot trace the network.
    """
    shadow = copy.deepcopy(model).eval().requires_grad_(True)
    images = torch.zeros(1, 3, size, size, device=next(shadow.parameters()).device)
    names: dict[Any, str] = {module: name for name, module in shadow.named_modules()}
    names |= {parameter: name for name, parameter in shadow.named_parameters()}
    found: list[ChannelGroup] = []
    whole: dict[str, str] = {}
    # It warns of parameters outside of known layers (layer scale), which are handled below.
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(shadow, images, verbose=False)
        except Exception as error:  # what the tracing of unknown code runs into has no common type
            raise StageError(
                f"The channels of {type(model).__name__} cannot be followed from layer to layer: {_reason(error)}",
                hint="Use another network, or leave out the pruning.",
            ) from error
        visited: set[nn.Module] = set()
        for root in list(graph.module2node):
            if not isinstance(root, nn.Conv2d | nn.Linear) or root in visited or names[root] in ignored:
                continue
            try:
                items = _items(graph, root)
                made = {item.dep.target.module for item in items if graph.is_out_channel_pruning_fn(item.dep.handler)}
                visited |= made
                if any(names.get(module) in ignored for module in made):
                    continue
                group = _group(model, graph, items, names)
            except Exception as error:  # noqa: BLE001 - as above; one layer's trouble leaves the others
                log.debug("%s: %s", names[root], _reason(error))
                group = None
            if group is None:
                whole[names[root]] = "their channels are tied to others in an unknown way"
            else:
                found.append(group)
    return found, whole


def _items(graph: Any, root: nn.Module) -> Any:
    """Return what has to go together with all outputs of a layer."""
    pruner = graph.get_pruner_of_module(root)
    return graph.get_pruning_group(root, pruner.prune_out_channels, list(range(pruner.get_out_channels(root))))


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


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
        if positions.numel() and int(positions.max()) >= _width(held, "out" if passes else "in", item):
            return None
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


def _width(held: nn.Module | nn.Parameter, role: str, item: Any) -> int:
    """Return how many channels a layer or parameter has where a group enters it."""
    if isinstance(held, nn.Parameter):
        return int(held.shape[item.dep.target.pruning_dim])
    weight = held.weight
    if not isinstance(weight, torch.Tensor):
        return max(len(tensor) for tensor in held.parameters(recurse=False))
    return weight.shape[1] * getattr(held, "groups", 1) if role == "in" else len(weight)
