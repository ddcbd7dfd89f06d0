"""One network in several processes: each takes its share of a batch, and the gradients are averaged."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from tlopt.networks import ending

# Each process keeps its own batch-norm statistics; torch 2.13 renamed the option.
_RENAMED = "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}


def parallel(called: nn.Module, model: nn.Module, device: torch.device, size: int) -> nn.Module:
    """Return what each process calls in training.

    Args:
        called: The network, or the compiled form of it.
        model: The network, in the mode in which it trains.
        device: Where this process computes.
        size: Side of the square input, pixels.
    """
    ids = [device.index] if device.type == "cuda" else None
    # Looking for weights that a batch has left out costs time at each step.
    left_out = _leaves_out(model, device, size)
    return nn.parallel.DistributedDataParallel(
        _Main(called, model), device_ids=ids, find_unused_parameters=left_out, **_OWN_BUFFERS
    )


class _Main(nn.Module):
    """A network without what it answers beside the logits: weights that only that hangs on get no gradient."""

    def __init__(self, called: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.called = called
        self.whole = [model]  # in a list: no second place of the same weights

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return ending.main_of(self.called(images), self.whole[0])


def _leaves_out(model: nn.Module, device: torch.device, size: int) -> bool:
    """Whether some weights that train take no part in the logits, as those of auxiliary classifiers."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    devices = [device.index] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            logits = ending.main_of(model(images), model)
            gradients = torch.autograd.grad(logits.sum(), weights, allow_unused=True)
    finally:
        with torch.no_grad():
            for buffer, before in kept:  # statistics of batch norms, for one
                buffer.copy_(before)
    return any(gradient is None for gradient in gradients)
