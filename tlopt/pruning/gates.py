"""How much each channel decides what a network says: derivatives with respect to gates on them.

A gate is a factor of 1 on a unit of channels, at every layer that takes it in. For each image one
backward pass gives the derivative of an objective with respect to all gates at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from tlopt.pruning.channels import ChannelGroup, Member

Objective = Literal["labels", "outputs"]


def measure(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    objective: Objective,
    *,
    seed: int,
) -> tuple[ChannelGroup, ...]:
    """Return the groups with their gates' derivatives, one row per image.

    Args:
        model: The network; it runs in evaluation mode.
        groups: Its groups.
        batches: float32 (n, 3, h, w) and int64 (n,), the labels.
        objective: "labels" is the cross-entropy with the labels. "outputs" is the sum of the logits
            with random signs, less their mean: the mean square of its derivative is the squared
            length of the change that a gate makes to the logits (Hutchinson's estimator), and needs
            no labels.
        seed: Seed of the signs.
    """
    random = torch.Generator().manual_seed(seed)
    rows: dict[str, list[torch.Tensor]] = {group.name: [] for group in groups}
    device = next(model.parameters()).device
    mode = model.training
    model.eval()
    try:
        for images, labels in batches:
            found = _derivatives(model, groups, images.to(device), labels.to(device), objective, random)
            for group, derivative in zip(groups, found, strict=True):
                rows[group.name].append(derivative.cpu())
    finally:
        model.train(mode)
    return tuple(replace(group, gates=torch.cat(rows[group.name])) for group in groups)


def _derivatives(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    images: torch.Tensor,
    labels: torch.Tensor,
    objective: Objective,
    random: torch.Generator,
) -> list[torch.Tensor]:
    gates = [images.new_ones(len(images), group.units).requires_grad_() for group in groups]
    intake: dict[nn.Module, list[tuple[Member, torch.Tensor]]] = {}
    for group, gate in zip(groups, gates, strict=True):
        for member in group.members:
            if member.role == "in" and isinstance(member.target, nn.Conv2d | nn.Linear):
                intake.setdefault(member.target, []).append((member, gate))
    hooks = [module.register_forward_pre_hook(_gated(pairs)) for module, pairs in intake.items()]
    try:
        with torch.enable_grad():
            logits = model(images)
            if objective == "labels":
                total = functional.cross_entropy(logits, labels, reduction="sum")
            else:
                signs = torch.randint(0, 2, logits.shape, generator=random).to(logits) * 2 - 1
                total = (logits * (signs - signs.mean(1, keepdim=True))).sum()
            found = torch.autograd.grad(total, gates, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.zeros_like(gate) if d is None else d.detach() for gate, d in zip(gates, found, strict=True)]


def _gated(pairs: Sequence[tuple[Member, torch.Tensor]]) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        features, *rest = inputs
        last = isinstance(module, nn.Linear)
        factor = features.new_ones(len(features), features.shape[-1 if last else 1])
        for member, gate in pairs:
            places = member.positions.to(features.device)
            shown = _of_rows(gate, len(features)).repeat_interleave(places.shape[1], dim=1)
            factor = factor.index_copy(1, places.flatten(), shown)
        middle = (1,) * (features.dim() - 2)
        shape = (len(features), *middle, -1) if last else (len(features), -1, *middle)
        return (features * factor.view(shape), *rest)

    return hook


def _of_rows(gate: torch.Tensor, rows: int) -> torch.Tensor:
    """Return a gate for each row that a layer is given: networks may hand it several parts of an image as rows.

    Parts of an image are taken to follow one another. Where that cannot be, the gates of all images count alike.

    Args:
        gate: float (images, units).
        rows: Length of the layer's input along its first axis.
    """
    images = len(gate)
    if rows % images:
        return gate.mean(0, keepdim=True).expand(rows, -1)
    return gate.repeat_interleave(rows // images, dim=0)
