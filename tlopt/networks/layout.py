"""How a network lies in memory: channels last, but for networks and layers that do not work so.

Channels last is faster. A network of the user's own may not work in it: `x.view(len(x), -1)` after a convolution needs
torch's default layout, and layers for volumes have no channels last. `settle` finds out once, where a network is made
or opened. From then on such a network itself brings the images that it is given into the default layout.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

# oneDNN's gradient of the weight of a 1 x 1 convolution with a stride reads the input into a buffer with whole vectors.
# With channels last and fewer channels than a vector holds, it writes past the buffer's end: crashes, or other tensors'
# values changed (oneDNN 3.12 in torch 2.13, https://github.com/uxlfoundation/oneDNN/issues/6035). Can go when all
# versions of torch that tlopt supports have it mended.
_VECTOR = 16  # float32 values of the widest vectors, those of AVX-512
_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

log = logging.getLogger(__name__)


def settle(model: nn.Module, size: int) -> nn.Module:
    """Find out whether a network works in channels last; let it take images in the default layout if not, in place.

    Args:
        model: The network, on the processor in torch's default layout.
        size: Side of the square input, pixels.
    """
    if name_of(model) == "channels_last" and not _works_in_channels_last(model, size):
        log.info("the network works in torch's default memory layout alone")
        model.register_forward_pre_hook(_images_in_default_layout)
    return model


def name_of(model: nn.Module) -> str:
    """Return the layout that a network works in, "channels_last" or "contiguous", as `settle` found it."""
    kept = _images_in_default_layout in model._forward_pre_hooks.values()
    return "contiguous" if kept else "channels_last"


def lay(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, in the layout that it works in, in place."""
    moved: nn.Module = model.to(device, memory_format=_FORMATS[name_of(model)])  # type: ignore[call-overload]
    return moved


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to where it computes, in place, in the layout that is fastest there and right.

    Args:
        model: The network; it takes inputs of any layout.
        device: Where to compute.
    """
    _forget(model)
    moved = lay(model, device)
    if device.type == "cpu" and name_of(model) == "channels_last":
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
    if name_of(model) == "contiguous":
        return False
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


def _images_in_default_layout(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *rest = inputs
    return (images.contiguous(), *rest)


def _works_in_channels_last(model: nn.Module, size: int) -> bool:
    """Whether a network runs, in evaluation and in training, where it and its images lie channels last."""
    # One that runs in neither layout has another defect: whoever uses it meets the error.
    return _runs(model, size, torch.channels_last) or not _runs(model, size, torch.contiguous_format)


def _runs(model: nn.Module, size: int, memory_format: torch.memory_format) -> bool:
    # Not on torch's device meta: convolutions there do not tell how their output lies.
    images = torch.zeros(2, 3, size, size).contiguous(memory_format=memory_format)
    try:
        # A copy: what a network keeps, such as the statistics of batch norms, stays as it is.
        shadow: Any = copy.deepcopy(model)
        shadow = shadow.to(memory_format=memory_format)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for training in (True, False):  # some have a second head while they train
                shadow.train(training)(images)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - what a network's own code runs into has no common type
        log.debug("does not run in %s: %s", memory_format, error)
        return False
    return True
