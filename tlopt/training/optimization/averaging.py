"""The exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class Average:
    """Follows the weights of a network (after arXiv 1703.01780).

    The decay rises to its value over the first steps, so that a short run is not held back by where
    it began. Buffers, such as the statistics of batch norms, are those of the network itself.

    Attributes:
        decay: Share of the old average kept at each step, 0..1.
        steps: Updates so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the network's weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self._weights.values()), [p.detach() for p in model.parameters()], 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the network the averaged weights for the length of the block."""
        own = {name: p.detach().clone() for name, p in model.named_parameters()}
        _put(model, self._weights)
        try:
            yield
        finally:
            _put(model, own)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the averaged weights by name."""
        return dict(self._weights)

    def restore(self, state: Mapping[str, torch.Tensor], steps: int) -> None:
        """Take up what `state` returned after so many steps."""
        for name, tensor in self._weights.items():
            tensor.copy_(state[name])
        self.steps = steps


@torch.no_grad()
def _put(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


@contextmanager
def applied(average: Average | None, model: nn.Module) -> Iterator[None]:
    """Give the network the averaged weights, if there are any, for the length of the block."""
    if average is None:
        yield
    else:
        with average.applied(model):
            yield
