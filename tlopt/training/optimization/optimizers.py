"""Optimizers and learning rates: a group per stage, spared norms, warm-up and cosine."""

from __future__ import annotations

import math

import torch
from torch import nn

from tlopt.errors import PluginError, suggestion
from tlopt.training import freezing
from tlopt.training.hyperparameters import Hyperparameters

_OWN = ("adamw", "sgd")  # those of torch itself, which need no timm


def make(model: nn.Module, settings: Hyperparameters) -> torch.optim.Optimizer:
    """Return the optimizer of a network.

    Stage k of the backbone, counted down from the classifier's neighbour at 0, learns at
    ``lr * backbone_lr * layer_decay ** k``; the classifier at ``lr`` (discriminative rates, arXiv 1801.06146).
    Norms, biases and other vectors have no weight decay (arXiv 1812.01187), which AdamW keeps apart from the
    gradient (arXiv 1711.05101). Each group has an "lr_scale" that `set_rate` reads.

    Raises:
        PluginError: No optimizer goes by this name.
    """
    check(settings.optimizer)
    place = freezing.parameter_stages(model)
    top = max(place.values())
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((place[name], parameter.ndim > 1), []).append(parameter)
    described = [
        {
            "params": members,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "lr": settings.lr,
            "lr_scale": 1.0 if stage == top else settings.backbone_lr * settings.layer_decay ** (top - 1 - stage),
        }
        for (stage, decays), members in sorted(groups.items())
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(described, betas=(settings.momentum, 0.999), fused=True)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            described, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True
        )
    return _timm(described, settings)


def check(name: str) -> None:
    """Check the name of an optimizer, before expensive work.

    Raises:
        PluginError: No optimizer goes by this name.
    """
    if name in _OWN:
        return
    from tlopt.networks import vision_ops

    vision_ops.declare()
    from timm.optim import list_optimizers

    if name not in (known := list_optimizers()):
        raise PluginError(f"Unknown optimizer: {name!r}.", hint=suggestion(name, {*known, *_OWN}))


def _timm(described: list[dict[str, object]], settings: Hyperparameters) -> torch.optim.Optimizer:
    from tlopt.networks import vision_ops

    vision_ops.declare()
    from timm.optim import create_optimizer_v2

    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        described, opt=settings.optimizer, lr=settings.lr, weight_decay=0.0, momentum=settings.momentum
    )
    return optimizer


def rate(settings: Hyperparameters, step: int, steps: int) -> float:
    """Return the classifier's learning rate at a step: warm-up (arXiv 1706.02677), then a cosine (1608.03983).

    Args:
        settings: Of the training run.
        step: Counted from 0.
        steps: Of the whole run.
    """
    rise = max(1, round(settings.warmup * steps))
    if step < rise:
        return settings.lr * (step + 1) / rise
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of each group, relative to the classifier's."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_scale"]
