"""The tensors that a network keeps beside its weights, such as the statistics of batch norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def kept(networks: Sequence[nn.Module]) -> Iterator[Callable[[], bool]]:
    """Put the buffers of networks back at the end of the block: the same tensors, with the values that they had.

    Yields:
        Returns whether a layer has put another tensor in the place of one by now.
    """
    held = [(part, name, own, own.detach().clone()) for part, name, own in _all(networks)]
    try:
        yield lambda: any(part._buffers.get(name) is not own for part, name, own, _ in held)
    finally:
        for part, name, own, then in held:
            with torch.no_grad():
                own.copy_(then)
            part._buffers[name] = own


def _all(networks: Sequence[nn.Module]) -> list[tuple[nn.Module, str, torch.Tensor]]:
    parts = [part for network in networks for part in network.modules()]
    return [(part, name, own) for part in parts for name, own in part._buffers.items() if own is not None]
