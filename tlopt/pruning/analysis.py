"""Finding the channels of a network that can only be removed together.

The dependency graph is Torch-Pruning's (DepGraph, arXiv 2301.12900). What it says is checked against the
layers, and then by cuts of a copy (`tlopt.pruning.proof`).
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tlopt.errors import PluginError, StageError
from tlopt.networks import head
from tlopt.pruning import dependencies, grouping, proof
from tlopt.pruning.channels import ChannelGroup, Layer, Network

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
    ways, whole = _ways(model, size, ignored=_classifier(model, layers))
    # What the forward pass splits may lose channels part by part, or from all parts alike.
    variants = [[way[0] for way in ways]]
    if any(len(way) > 1 for way in ways):
        variants.append([way[-1] for way in ways])
    sound, broken = proof.proven(model, variants, size)
    return Network(groups=sound, layers=tuple(_connect(layer, sound) for layer in layers), whole={**whole, **broken})


def multiply_adds(model: nn.Module, size: int) -> int:
    """Return the multiply-adds per image of convolutions and linear layers, whatever can be removed.

    Args:
        model: A classifier of float32 (n, 3, size, size).
        size: Side of the square input, pixels.
    """
    return sum(layer.macs({}) for layer in _layers(model, size))


def _classifier(model: nn.Module, layers: Sequence[Layer]) -> tuple[str, ...]:
    try:
        return head.find(model).names
    except PluginError:
        return (layers[-1].name,)


def _ways(
    model: nn.Module, size: int, *, ignored: Sequence[str]
) -> tuple[list[list[list[ChannelGroup]]], dict[str, str]]:
    """Return the ways to cut each layer's channels, and the layers of which none is known, with the reason.

    Raises:
        StageError: Torch-Pruning cannot trace the network.
    """
    shadow = copy.deepcopy(model).eval().requires_grad_(True)
    images = torch.zeros(1, 3, size, size, device=next(shadow.parameters()).device)
    names: dict[Any, str] = {module: name for name, module in shadow.named_modules()}
    names |= {parameter: name for name, parameter in shadow.named_parameters()}
    found: list[list[list[ChannelGroup]]] = []
    whole: dict[str, str] = {}
    # It warns of parameters outside of known layers (layer scale), which are handled below.
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            graph = dependencies.Graph(shadow, images)
        except Exception as error:  # what the tracing of unknown code runs into has no common type
            raise StageError(
                f"The channels of {type(model).__name__} cannot be followed from layer to layer: {_reason(error)}",
                hint="Use another network, or leave out the pruning.",
            ) from error
        visited: dict[nn.Module, set[int]] = {}
        for root in list(graph.module2node):
            if not isinstance(root, nn.Conv2d | nn.Linear) or names[root] in ignored:
                continue
            channels = [i for i in range(len(root.weight)) if i not in visited.get(root, ())]
            if not channels:
                continue
            try:
                places = grouping.reached(graph, root, channels)
                made = [place for place in places if graph.is_out_channel_pruning_fn(place.handler)]
                for place in made:
                    visited.setdefault(place.node.module, set()).update(place.roots)
                if any(names.get(place.node.module) in ignored for place in made):
                    continue
                ways = grouping.ways(model, graph, places, names)
            except Exception as error:  # noqa: BLE001 - as above; one layer's trouble leaves the others
                log.debug("%s: %s", names[root], _reason(error))
                ways = []
            if ways:
                found.append(ways)
            else:
                whole[names[root]] = "their channels are tied to others in an unknown way"
    return found, whole


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
