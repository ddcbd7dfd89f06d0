"""The classifier of a network: the layers that make its answers, and the features that enter them.

It is found by what the network computes: one pass is traced from the answers back to the first layers
with weights. A classifier is a linear layer or a 1 x 1 convolution. Some networks have several and
take their mean or their sum.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tlopt.errors import PluginError

Layer = nn.Linear | nn.Conv2d

_SIZES = (64, 224, 32, 299)  # sides of the images that are tried, pixels
_KEPT = "_found_head"  # attribute of a network: what was found, so that copies need no pass of their own


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """The layers that make a network's answers.

    Args:
        names: Their names in the network.
        layers: Linear layers or 1 x 1 convolutions.
        share: The answers are this number times the sum of what the layers say.
        rectified: Whether negative answers become 0, as in SqueezeNet.
    """

    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    share: float = 1.0
    rectified: bool = False

    @property
    def width(self) -> int:
        """Number of features, of all layers together."""
        return sum(layer.weight.shape[1] for layer in self.layers)

    @property
    def biased(self) -> bool:
        """Whether the classifier has a bias."""
        return any(layer.bias is not None for layer in self.layers)

    def holds(self, parameter: str) -> bool:
        """Whether a parameter, by its name in the network, is one of the classifier's."""
        return any(parameter.startswith(f"{name}.") for name in self.names)

    def matrix(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weight (classes, features) and the bias (classes,) that act on all features at once."""
        weight = torch.cat([layer.weight.detach().flatten(1) for layer in self.layers], 1) * self.share
        bias = sum((layer.bias.detach() for layer in self.layers if layer.bias is not None), torch.zeros(()))
        return weight, bias.to(weight) * self.share + torch.zeros_like(weight[:, 0])

    def answers(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) for features (n, features)."""
        weight, bias = self.matrix()
        logits = functional.linear(features.to(weight), weight, bias)
        return logits.clamp_min(0) if self.rectified else logits

    def write(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Put a weight (classes, features) and a bias (classes,) into the layers, in place.

        A classifier without a bias stays without one.
        """
        # nn.Linear declares its bias as a tensor, but a model may have made it without one.
        biases = [layer.bias for layer in self.layers if layer.bias is not None]
        start = 0
        with torch.no_grad():
            for layer in self.layers:
                part = weight.narrow(1, start, layer.weight.shape[1])
                layer.weight.copy_(part.reshape(layer.weight.shape) / self.share)
                start += layer.weight.shape[1]
            for own in biases:
                own.copy_(bias / self.share / len(biases))


def find(model: nn.Module) -> Head:
    """Return the classifier of a network.

    Raises:
        PluginError: Its answers are made by something else.
    """
    kept = vars(model).get(_KEPT)
    modules = dict(model.named_modules())
    if kept is not None and all(_could_be(modules.get(name)) for name in kept[0]):
        names, share, rectified = kept
    else:
        names, share, rectified = _search(model, modules)
        vars(model)[_KEPT] = (names, share, rectified)
    layers: Any = tuple(modules[name] for name in names)
    return Head(names=names, layers=layers, share=share, rectified=rectified)


def replace(model: nn.Module, classes: int) -> None:
    """Put a new, untrained classifier in place of the network's own: of the same kind, without a bias if it has none.

    Raises:
        PluginError: The network has none.
    """
    head = find(model)
    for name, layer in zip(head.names, head.layers, strict=True):
        width, bias = layer.weight.shape[1], layer.bias is not None
        fresh = (
            nn.Linear(width, classes, bias=bias)
            if isinstance(layer, nn.Linear)
            else nn.Conv2d(width, classes, 1, bias=bias)
        )
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, fresh.to(layer.weight))


@contextmanager
def features(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what enters the classifier at each call of the network: float (n, features).

    The list holds the last call's features only. What enters a convolution is averaged over all places.
    """
    head = find(model)
    seen: list[torch.Tensor] = []
    parts: dict[int, torch.Tensor] = {}

    def note(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            parts[index] = pooled(inputs[0])
            if len(parts) == len(head.layers):
                seen[:] = [torch.cat([parts[i] for i in sorted(parts)], 1)]
                parts.clear()

        return hook

    handles = [layer.register_forward_pre_hook(note(i)) for i, layer in enumerate(head.layers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def pooled(inputs: torch.Tensor) -> torch.Tensor:
    """Return what enters a classifier as features: (n, c, h, w) is averaged over its places."""
    return inputs.mean((2, 3)) if inputs.dim() == 4 else inputs.flatten(1)


def _could_be(module: nn.Module | None) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _search(model: nn.Module, modules: dict[str, nn.Module]) -> tuple[tuple[str, ...], float, bool]:
    traced = next((found for size in _SIZES if (found := _traced(model, modules, size)) is not None), None)
    if traced is None or "forward" in vars(model):
        # It takes images of none of these sizes, or a program with rounding computes in the place of its layers.
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        traced = (tuple(linear[-1:]), 1.0, False)
    if not traced[0]:
        raise PluginError(
            f"{type(model).__name__} has no linear layer and no 1 x 1 convolution that could be its classifier.",
            hint="Use a model that ends in torch.nn.Linear.",
        )
    return traced


def _traced(model: nn.Module, modules: dict[str, nn.Module], size: int) -> tuple[tuple[str, ...], float, bool] | None:
    """Return names, share and whether negative answers become 0; None if the network does not take this size."""
    said: dict[Any, tuple[str, torch.Tensor]] = {}  # the step that made a layer's output -> layer, output

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            said[output.grad_fn] = name, output.detach().clone()

        return hook

    # A copy: some networks keep what they computed in evaluation mode, such as LeViT's biases.
    copied = copy.deepcopy(model).eval()
    for name, module in copied.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(note(name))
    weight, cudnn = next(model.parameters(), torch.zeros(())), torch.backends.cudnn
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        # Two images are not worth the kernels that cuDNN would make for them.
        with torch.inference_mode(False), torch.enable_grad(), cudnn.flags(enabled=False):
            logits = copied(images.clone().requires_grad_() * 1)
    except (RuntimeError, ValueError, AssertionError, IndexError):
        return None  # images of this size
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        return (), 1.0, False
    makers, rectified = _makers(logits.grad_fn, said)
    names = [name for name, output in makers if _could_be(modules[name]) and output.shape[1] == logits.shape[1]]
    outputs = [pooled(output) for name, output in makers if name in names]
    if not outputs:
        return (), 1.0, False
    total = torch.stack(outputs).sum(0)
    mean = len(outputs) > 1 and torch.allclose(logits.detach(), total / len(outputs), rtol=1e-3, atol=1e-5)
    return tuple(names), 1 / len(outputs) if mean else 1.0, rectified


def _makers(end: Any, said: dict[Any, tuple[str, torch.Tensor]]) -> tuple[list[tuple[str, torch.Tensor]], bool]:
    """Return the last layers with weights on all ways to the answers, as they ran, and whether a ReLU follows them."""
    found, seen, rectified = set(), {end}, False
    waiting = [end]
    while waiting:
        step = waiting.pop()
        if step in said:
            found.add(step)
            continue
        rectified |= "ReluBackward" in type(step).__name__
        for before, _ in getattr(step, "next_functions", ()):
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    return [value for step, value in said.items() if step in found], rectified
