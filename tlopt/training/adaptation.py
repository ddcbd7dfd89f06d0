"""Batch norms brought to the images of another camera, without labels and without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

_Norm = nn.modules.batchnorm._BatchNorm  # torch has no public name for what all batch norms share


def batch_norms(model: nn.Module) -> list[_Norm]:
    """Return the batch norms of a network that keep statistics."""
    return [module for module in model.modules() if isinstance(module, _Norm) and module.running_mean is not None]


def adapt_norms(
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    *,
    prior: float,
    training: Iterable[torch.Tensor] | None = None,
) -> float:
    """Change each batch norm by what tells some images from those that the network was trained on.

    After it, a batch norm gives the mean and the variance on the images that it gave on those of training, where both
    are those of a mixture: the ones of training count as much as `prior` images. A network that was fine-tuned with
    frozen batch norms gives others than 0 and 1 there, and its later layers expect them. Each batch norm normalizes by
    the mixture as it is so far, so that later layers are measured on what earlier ones will give them.
    S. Schneider et al., "Improving robustness against common image corruptions by covariate shift
    adaptation", arXiv 2006.16971.

    Args:
        model: The network, in evaluation mode; its batch norms are changed in place.
        batches: Inputs, float32 (n, 3, size, size), all images once, in random order.
        prior: Images that those of training count as.
        training: Inputs of images that the network was trained on; None if its statistics are of them, as those of a
            network whose batch norms were trained.

    Returns:
        How far the means moved, in standard deviations of the network's own: the mean over all channels.
    """
    norms = batch_norms(model)
    before = {norm: _Moments(norm) for norm in norms}
    if training is not None:
        _show(model, training, before)
    mixtures = {norm: _Mixture(norm, before[norm], prior) for norm in norms}
    _show(model, batches, mixtures)
    moved = [mixture.moved() for mixture in mixtures.values()]
    return sum(moved) / max(1, len(moved))


class _Moments:
    """Mean and variance of what a batch norm is given; its own before it is given anything.

    Args:
        norm: The batch norm.
    """

    def __init__(self, norm: _Norm) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.own_mean, self.own_variance = norm.running_mean.double().clone(), norm.running_var.double().clone()
        self.images = self._numbers = 0
        self._sum = torch.zeros_like(self.own_mean)
        self._squares = torch.zeros_like(self.own_mean)  # of what is left of a number without the own mean

    def take(self, inputs: torch.Tensor) -> None:
        """Add what the batch norm is given, float (n, channels, ...)."""
        rows = inputs.double().transpose(0, 1).flatten(1) - self.own_mean[:, None]
        self.images += len(inputs)
        self._numbers += rows.shape[1]
        self._sum += rows.sum(1)
        self._squares += rows.square().sum(1)

    @property
    def mean(self) -> torch.Tensor:
        """Float64 (channels,)."""
        return self.own_mean + self._sum / self._numbers if self._numbers else self.own_mean

    @property
    def variance(self) -> torch.Tensor:
        """Float64 (channels,)."""
        if not self._numbers:
            return self.own_variance
        return (self._squares / self._numbers - (self._sum / self._numbers).square()).clamp_min(0)


class _Mixture:
    """A batch norm that is brought to what it is given.

    Args:
        norm: The batch norm.
        before: Of what it was given in training.
        prior: Images that those of training count as.
    """

    def __init__(self, norm: _Norm, before: _Moments, prior: float) -> None:
        self._norm, self._before, self._prior = norm, before, prior
        self._now = _Moments(norm)

    def take(self, inputs: torch.Tensor) -> None:
        """Add what the batch norm is given, float (n, channels, ...), and let it normalize by all there is so far."""
        now, before, norm = self._now, self._before, self._norm
        now.take(inputs)
        share = now.images / (now.images + self._prior)
        mean = (1 - share) * before.mean + share * now.mean
        variance = (1 - share) * before.variance + share * now.variance
        wider = (variance + norm.eps) / (before.variance + norm.eps)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean - (before.mean - before.own_mean) * wider.sqrt())
        norm.running_var.copy_((before.own_variance + norm.eps) * wider - norm.eps)

    def moved(self) -> float:
        """Return how far the mean moved, in standard deviations: the mean over the channels."""
        assert self._norm.running_mean is not None
        before = self._before
        far = (self._norm.running_mean.double() - before.own_mean).abs() / (before.own_variance + self._norm.eps).sqrt()
        return float(far.mean())


def _show(
    model: nn.Module, batches: Iterable[torch.Tensor], takers: Mapping[_Norm, _Moments] | Mapping[_Norm, _Mixture]
) -> None:
    """Run a network on some inputs, and show each of the takers what its batch norm is given."""

    def show(norm: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(norm, _Norm)
        takers[norm].take(given[0])

    handles = [norm.register_forward_pre_hook(show) for norm in takers]
    try:
        with torch.inference_mode():
            for inputs in batches:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
