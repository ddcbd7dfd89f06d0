"""Widths that layers note for their forward pass, beside those that follow from their weights.

A few layers of timm split or blur by numbers of channels that were noted when they were made. After a cut, and where
a pruned network is opened again, they take the numbers from the weights beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class BlurPool2d(nn.Module):
    """timm's anti-aliased downsampling, of any number of channels: it has the same filter for each of them."""

    filt: torch.Tensor
    padding: list[int]
    pad_mode: str
    stride: int

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return blurred features, (n, c, h / stride, w / stride), of (n, c, h, w)."""
        channels = features.shape[1]
        filters = self.filt if len(self.filt) == channels else self.filt[:1].expand(channels, -1, -1, -1)
        padded = functional.pad(features, self.padding, mode=self.pad_mode)
        return functional.conv2d(padded, filters, stride=self.stride, groups=channels)


def renew(model: nn.Module) -> None:
    """Let the layers of a network note the widths of their weights, in place."""
    for module in model.modules():
        if type(module).__module__.startswith("timm.") and (known := _KNOWN.get(type(module).__name__)):
            known(module)


def _blur(module: Any) -> None:
    if module.channels is not None:
        module.__class__ = BlurPool2d


def _mixed(module: Any) -> None:
    module.splits = [conv.in_channels for conv in module.children()]
    module.in_channels = sum(module.splits)
    module.out_channels = sum(conv.out_channels for conv in module.children())


def _cross_stage(module: Any) -> None:
    module.expand_chs = module.conv_exp.conv.out_channels


def _scaled(module: Any) -> None:
    module.width = module.convs[0].in_channels


# Class -> what it has to note.
_KNOWN: dict[str, Callable[[Any], None]] = {
    "BlurPool2d": _blur,
    "MixedConv2d": _mixed,
    "CrossStage": _cross_stage,
    "CrossStage3": _cross_stage,
    "Bottle2neck": _scaled,
    "DlaBottle2neck": _scaled,
}
