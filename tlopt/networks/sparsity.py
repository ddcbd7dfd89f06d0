"""2:4 sparsity: of four neighbouring weights along the input channels, two are zero.

The pattern that sparse tensor cores of NVIDIA GPUs since compute capability 8.0 run at up to twice
the speed (Mishra et al., arXiv 2104.08378).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

_RUN, _ZEROS = 4, 2


def layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return the layers that can be sparse: their input channels, per group, are a multiple of four."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.shape[1] % _RUN == 0
    }


def mask(weight: torch.Tensor) -> torch.Tensor:
    """Return which weights stay: the two largest of every four along axis 1.

    Args:
        weight: float (outputs, inputs, …), inputs a multiple of four.

    Returns:
        bool, of the same shape.
    """
    runs = _runs(weight.detach().abs())
    kept = torch.zeros_like(runs, dtype=torch.bool)
    kept.scatter_(-1, runs.topk(_RUN - _ZEROS, dim=-1).indices, True)
    return kept.reshape(weight.movedim(1, -1).shape).movedim(-1, 1)


def follows(weight: torch.Tensor) -> bool:
    """Return whether at least two of every four weights along axis 1 are zero."""
    return weight.shape[1] % _RUN == 0 and bool(((_runs(weight.detach()) == 0).sum(-1) >= _ZEROS).all())


def _runs(weight: torch.Tensor) -> torch.Tensor:
    """Return the weights as (…, 4), four neighbours along axis 1 in each row."""
    last = weight.movedim(1, -1)
    return last.reshape(*last.shape[:-1], -1, _RUN)


def apply(model: nn.Module) -> None:
    """Set the smaller two of every four weights to zero, in place, in all layers that can be sparse."""
    with torch.no_grad():
        for module in layers(model).values():
            module.weight *= mask(module.weight)


class _Masked(nn.Module):
    kept: torch.Tensor

    def __init__(self, kept: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight with its zeros."""
        return weight * self.kept


@contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """Keep the zeros of layers that follow the pattern, whatever trains them inside the block."""
    found = [module for module in layers(model).values() if follows(module.weight)]
    for module in found:
        parametrize.register_parametrization(module, "weight", _Masked(module.weight.detach() != 0))
    try:
        yield
    finally:
        for module in found:
            parametrize.remove_parametrizations(module, "weight")
