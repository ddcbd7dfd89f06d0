"""Batch norms brought to the images of another camera, without labels and without gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

_Norm = nn.modules.batchnorm._BatchNorm  # torch has no public name for what all batch norms share


def batch_norms(model: nn.Module) -> list[_Norm]:
    """Return the batch norms of a network that keep statistics."""
    return [module for module in model.modules() if isinstance(module, _Norm) and module.running_mean is not None]


def adapt_norms(model: nn.Module, batches: Iterable[torch.Tensor], *, prior: float) -> float:
    """Replace each batch norm's mean and variance by a mixture of the network's own and those of some images.

    The network's own count as much as `prior` images. Each batch norm normalizes by the mixture as it is so
    far, so that later layers are measured on what earlier ones will give them.
    S. Schneider et al., "Improving robustness against common image corruptions by covariate shift
    adaptation", arXiv 2006.16971.

    Args:
        model: The network, in evaluation mode; its batch norms are changed in place.
        batches: Inputs, float32 (n, 3, size, size), all images once, in random order.
        prior: Images that the network's own statistics count as.

    Returns:
        How far the means moved, in standard deviations of the network's own: the mean over all channels.
    """
    mixtures = {norm: _Mixture(norm, prior) for norm in batch_norms(model)}
    with _mixing(mixtures), torch.inference_mode():
        for inputs in batches:
            model(inputs)
    moved = [mixture.moved() for mixture in mixtures.values()]
    return sum(moved) / max(1, len(moved))


class _Mixture:
    """The statistics of a batch norm: its own, and what it has been given since.

    Args:
        norm: The batch norm.
        prior: Images that its own statistics count as.
    """

    def __init__(self, norm: _Norm, prior: float) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self._norm, self._prior = norm, prior
        self._mean, self._variance = norm.running_mean.double().clone(), norm.running_var.double().clone()
        self._images = self._numbers = 0
        self._sum = torch.zeros_like(self._mean)
        self._squares = torch.zeros_like(self._mean)  # of what is left of a number without its own mean

    def take(self, inputs: torch.Tensor) -> None:
        """Add what the batch norm is given, float (n, channels, ...), and let it normalize by all there is so far."""
        rows = inputs.double().transpose(0, 1).flatten(1) - self._mean[:, None]
        self._images += len(inputs)
        self._numbers += rows.shape[1]
        self._sum += rows.sum(1)
        self._squares += rows.square().sum(1)
        share, shift = self._images / (self._images + self._prior), self._sum / self._numbers
        variance = (self._squares / self._numbers - shift.square()).clamp_min(0)
        norm = self._norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(self._mean + share * shift)
        norm.running_var.copy_((1 - share) * self._variance + share * variance)

    def moved(self) -> float:
        """Return how far the mean moved, in standard deviations: the mean over the channels."""
        assert self._norm.running_mean is not None
        far = (self._norm.running_mean.double() - self._mean).abs() / (self._variance + self._norm.eps).sqrt()
        return float(far.mean())


@contextlib.contextmanager
def _mixing(mixtures: dict[_Norm, _Mixture]) -> Iterator[None]:
    """Within the block, show each mixture what its batch norm is given."""

    def show(norm: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(norm, _Norm)
        mixtures[norm].take(given[0])

    handles = [norm.register_forward_pre_hook(show) for norm in mixtures]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
