"""Terms beside the loss: the pull to where training began, and the distance to a teacher's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from tlopt.networks import head
from tlopt.training.hyperparameters import Hyperparameters


class Anchor:
    """Half the squared distance of the backbone to where it began, times a strength (L2-SP, arXiv 1802.01483).

    The classifier, which has no pretrained weights to hold on to, is left to weight decay.
    """

    def __init__(self, model: nn.Module, strength: float) -> None:
        self.strength = strength
        classifier = head.find(model)
        self._now = {n: p for n, p in model.named_parameters() if not classifier.holds(n)}
        self._then = {name: p.detach().clone() for name, p in self._now.items()}

    def pull(self) -> torch.Tensor:
        """Return the term, a scalar."""
        moved = [(p, self._then[name]) for name, p in self._now.items() if p.requires_grad]
        if not moved:
            return torch.zeros((), device=next(iter(self._then.values())).device)
        distances = torch._foreach_norm(torch._foreach_sub([p for p, _ in moved], [t for _, t in moved]))
        return torch.stack([d * d for d in distances]).sum() * (self.strength / 2)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the starting weights by name."""
        return dict(self._then)

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` returned."""
        for name, tensor in self._then.items():
            tensor.copy_(state[name])


class Matcher:
    """The distance of the features that enter two classifiers, zero without a teacher that is a network.

    A context manager around the forward passes of both. Features are compared by direction (mean
    squared error of normalized vectors); where their lengths differ, those of the student go
    through a fixed random projection first, which keeps distances nearly as they are.
    FitNets, arXiv 1412.6550.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, weight: float, seed: int) -> None:
        self.weight = weight
        self._seen: dict[str, torch.Tensor] = {}
        self._layers = {"student": head.find(model).layers[0], "teacher": head.find(teacher).layers[0]}
        own, other = (layer.weight.shape[1] for layer in self._layers.values())
        generator = torch.Generator().manual_seed(seed)
        self._projection = torch.randn(own, other, generator=generator) / other**0.5 if own != other else None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            self._hooks.append(layer.register_forward_pre_hook(self._note(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _note(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._seen[name] = head.pooled(inputs[0]).float()

        return hook

    def distance(self) -> torch.Tensor:
        """Return the term, a scalar."""
        # Not kept: they would hold the passes that made them, which a recording does not allow.
        own, other = self._seen.pop("student"), self._seen.pop("teacher").detach()
        if self._projection is not None:
            self._projection = self._projection.to(own.device)  # once: a GPU cannot record a copy to it
            own = own @ self._projection
        return self.weight * (functional.normalize(own) - functional.normalize(other)).square().sum(1).mean()

    def state(self) -> dict[str, torch.Tensor]:
        """Return nothing: the projection follows from the seed."""
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Do nothing."""


class _NoMatcher(Matcher):
    def __init__(self) -> None:
        """Compare nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def distance(self) -> torch.Tensor:
        """Return zero."""
        return torch.zeros(())


def matcher(model: nn.Module, teacher: object, settings: Hyperparameters) -> Matcher:
    """Return what compares a network's features with its teacher's, if the settings want that."""
    shows = isinstance(teacher, nn.Module) and any(isinstance(m, nn.Linear) for m in teacher.modules())
    if settings.teacher_features and shows:
        assert isinstance(teacher, nn.Module)
        return Matcher(model, teacher, settings.teacher_features, settings.seed)
    return _NoMatcher()
