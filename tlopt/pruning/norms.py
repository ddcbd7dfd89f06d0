"""Batch-norm statistics: made true to the data before channels go, measured anew afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

BatchNorm = nn.modules.batchnorm._BatchNorm

_STILL = 1e-3  # of a channel's former variance, below which it does not count as measured


def rebase(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Give batch norms the statistics of some images and change their scales to compute the same, in place.

    A network trained with frozen statistics carries those of other images. Measuring them anew after
    channels were cut would then change more than the cut did; after this it restores each remaining
    channel's own mean and variance.

    Args:
        model: The network.
        batches: float32 (n, 3, h, w), as many as represent the data.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats and m.affine]
    sums: dict[nn.Module, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].double().transpose(0, 1).flatten(1)
        first, second, count = sums.get(module, (torch.zeros(()), torch.zeros(()), 0))
        sums[module] = (first.to(values) + values.sum(1), second.to(values) + values.square().sum(1),
                        count + values.shape[1])  # fmt: skip

    _run(model, batches, norms, note)
    for norm, (first, second, count) in sums.items():
        assert isinstance(norm, BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean = first / count
        variance = (second / count - mean.square()).clamp_min(0)
        old = (norm.running_var.double() + norm.eps).sqrt()
        with torch.no_grad():
            norm.bias.add_(norm.weight.double() * (mean - norm.running_mean.double()) / old)
            norm.weight.mul_((variance + norm.eps).sqrt() / old)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)


def recalibrate(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Measure the statistics of batch norms anew, in place; everything else stays.

    A channel that hardly varies on these images keeps its variance: divided by nearly nothing, what other images make
    of it would drown the rest.

    Args:
        model: The network.
        batches: float32 (n, 3, h, w), each large enough to normalize by.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    before = [_variance(norm).clone() for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
            norm.train()
        with torch.no_grad():
            for images in batches:
                model(images)
    finally:
        for norm, momentum, old in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            norm.eval()
            found = _variance(norm)
            found.copy_(torch.where(found < _STILL * old, old, found))


@contextmanager
def of_each_batch(model: nn.Module) -> Iterator[None]:
    """Let batch norms take the statistics of each batch for the length of the block, and note none of them."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    modes, momenta = [norm.training for norm in norms], [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.train().momentum = 0.0
    try:
        yield
    finally:
        for norm, mode, momentum, count in zip(norms, modes, momenta, counts, strict=True):
            norm.train(mode).momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


def _variance(norm: BatchNorm) -> torch.Tensor:
    assert norm.running_var is not None
    return norm.running_var


def _run(
    model: nn.Module, batches: Iterable[torch.Tensor], watched: Iterable[nn.Module], note: Callable[..., None]
) -> None:
    hooks = [module.register_forward_pre_hook(note) for module in watched]
    model.eval()
    try:
        with torch.no_grad():
            for images in batches:
                model(images)
    finally:
        for hook in hooks:
            hook.remove()
