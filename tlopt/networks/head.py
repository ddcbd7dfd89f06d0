"""The classifier of a network: its last linear layer, and the features that enter it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tlopt.errors import PluginError


def find(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the classifier's name and layer: the last linear layer of the network.

    Raises:
        PluginError: The network has none.
    """
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise PluginError(
            f"{type(model).__name__} has no linear layer that could be its classifier.",
            hint="Use a model that ends in torch.nn.Linear.",
        )
    return linear[-1]


@contextmanager
def features(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what enters the classifier at each call of the network: float (n, features).

    The list holds the last call's features only.
    """
    seen: list[torch.Tensor] = []

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[:] = [inputs[0].flatten(1)]

    handle = find(model)[1].register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
