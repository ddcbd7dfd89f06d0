"""How a network lies in memory while it trains: channels last, but for layers that torch computes wrongly there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

# oneDNN's gradient of the weight of a 1 x 1 convolution with a stride reads the input into a buffer with whole vectors.
# With channels last and fewer channels than a vector holds, it writes past the buffer's end: crashes, or other tensors'
# values changed (oneDNN 3.12 in torch 2.13, https://github.com/uxlfoundation/oneDNN/issues/6035). Can go when all
# versions of torch that tlopt supports have it mended.
_VECTOR = 16  # float32 values of the widest vectors, those of AVX-512


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to where it computes, in place, in the layout that is fastest there and right.

    Args:
        model: The network; it takes inputs of any layout.
        device: Where to compute.
    """
    _forget(model)
    moved: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        for module in moved.modules():
            if isinstance(module, nn.Conv2d) and writes_past_the_end(module.weight.shape, module.stride):
                module.weight.data = in_default_layout(module.weight.data)
                module.register_forward_pre_hook(_in_default_layout)
    return moved


def release(model: nn.Module) -> nn.Module:
    """Move a network to the processor, in torch's default layout, in place."""
    _forget(model)
    moved: nn.Module = model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return moved


def has_exceptions(model: nn.Module) -> bool:
    """Whether `place` keeps layers of a network apart on the processor; torch.compile would not leave them so."""
    return any(isinstance(m, nn.Conv2d) and writes_past_the_end(m.weight.shape, m.stride) for m in model.modules())


def writes_past_the_end(weight: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether a convolution's gradient spoils memory where its input lies channels last, on the processor.

    Args:
        weight: Shape of the weight: channels out, channels in of one group, height, width.
        stride: Rows and columns from one output to the next.
    """
    return tuple(weight[2:]) == (1, 1) and max(stride) > 1 and weight[1] < _VECTOR


def in_default_layout(features: torch.Tensor) -> torch.Tensor:
    """Return a convolution's input or weight in the layout in which its gradients are right."""
    # With one pixel, both layouts hold, and torch takes the strides for channels last: only a copy has others.
    if features.is_contiguous(memory_format=torch.channels_last):
        return features.clone(memory_format=torch.contiguous_format)
    return features.contiguous()


def _forget(model: nn.Module) -> None:
    for module in model.modules():
        hooks = module._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if hook is _in_default_layout]:
            del hooks[key]


def _in_default_layout(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    features, *rest = inputs
    return (in_default_layout(features), *rest)
