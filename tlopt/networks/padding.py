"""TensorFlow's SAME padding, fixed for one input size.

timm's ``Conv2dSame`` computes its padding from the input's size at each call: slow in training, and
in an exported graph a tangle of shape arithmetic. A classifier has one input size, so each padding
is computed once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class PaddedConv2d(nn.Conv2d):
    """A convolution over an input that is padded with zeros, unevenly, by fixed widths.

    Attributes:
        widths: Zeros to the left, right, top and bottom, in pixels.
    """

    widths: tuple[int, int, int, int]

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.Conv2d's own name
        """Return the convolution of the padded input, (n, c, h, w)."""
        result: torch.Tensor = self._conv_forward(functional.pad(input, self.widths), self.weight, self.bias)
        return result


def fix(model: nn.Module, size: int) -> nn.Module:
    """Replace each ``Conv2dSame`` of a model by a convolution padded for one input size, in place.

    Names and parameters stay, so weights load as before.

    Args:
        model: Any module; one without such convolutions is returned as it is.
        size: Side of the square input, pixels.
    """
    same = {name: module for name, module in model.named_modules() if type(module).__name__ == "Conv2dSame"}
    if not same:
        return model
    sizes: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            sizes[name] = tuple(inputs[0].shape[-2:])

        return hook

    # A meta copy runs no arithmetic: only shapes pass through.
    shadow = copy.deepcopy(model).to("meta").eval()
    hooks = [shadow.get_submodule(name).register_forward_pre_hook(note(name)) for name in same]
    with torch.no_grad():
        shadow(torch.empty(1, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    for name, module in same.items():
        assert isinstance(module, nn.Conv2d)
        _fix_one(module, sizes[name])
    return model


def _fix_one(module: nn.Conv2d, size: tuple[int, int]) -> None:
    pads = [
        max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, s, k, d in zip(size, module.stride, module.kernel_size, module.dilation, strict=True)
    ]
    (top, bottom), (left, right) = [(p // 2, p - p // 2) for p in pads]
    if top == bottom and left == right:
        module.__class__ = nn.Conv2d
        module.padding = (top, left)
    else:
        module.__class__ = PaddedConv2d
        assert isinstance(module, PaddedConv2d)
        module.widths = (left, right, top, bottom)
