"""Proof of cuts: groups of channels that a network can lose, tried on copies of it.

What a tracer says of a network may be wrong: the forward pass may split or reshape by fixed widths, mix
channels, or keep widths in attributes. So half of the channels go from a copy. It has to run, and to answer
as the network does with the same channels set to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tlopt.pruning import channels
from tlopt.pruning.channels import ChannelGroup

_TRIALS = 100  # copies that are cut at most
_OFF = 1e-2  # of what the channels change in the answers, and
_ROUNDING = 1e-4  # of the largest answer: the cut and the zeros may differ by both

BROKEN = "the network does not run without some of their channels"
OTHER = "the network answers otherwise without some of their channels than with zeros in their place"
UNTRIED = f"their cut was not tried, since {_TRIALS} other cuts were"


def proven(
    model: nn.Module, groups: Sequence[ChannelGroup], size: int
) -> tuple[tuple[ChannelGroup, ...], dict[str, str]]:
    """Return the groups whose channels can go, and for the others the layer that makes them and the reason.

    Args:
        model: The network.
        groups: What may be cut together.
        size: Side of the square input, pixels.
    """
    if not groups:
        return (), {}
    trials = _Trials(model, size)
    sound = trials.split(list(groups))
    if len(sound) < len(groups) and trials.wrong(sound):
        # Each part works alone and not with the others: they come in one by one.
        together: list[ChannelGroup] = []
        for group in sound:
            if (reason := trials.wrong([*together, group])) is None:
                together.append(group)
            else:
                trials.reasons[group.name] = reason
        sound = together
    return tuple(sound), trials.reasons


class _Trials:
    """A network and how it is tried.

    Attributes:
        reasons: Name of a group that cannot be cut -> why.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        self._model = _awake(model)
        random = torch.Generator().manual_seed(0)
        device = next(model.parameters()).device
        self._images = torch.randn(2, 3, size, size, generator=random).to(device)
        self._whole = self._run(self._model)
        self._left = _TRIALS
        self.reasons: dict[str, str] = {}

    def split(self, groups: list[ChannelGroup]) -> list[ChannelGroup]:
        """Return the groups that can be cut: all at once if that works, otherwise by halves."""
        reason = self.wrong(groups)
        if reason is None:
            return groups
        if len(groups) == 1 or reason == UNTRIED:
            self.reasons |= {group.name: reason for group in groups}
            return []
        middle = len(groups) // 2
        return self.split(groups[:middle]) + self.split(groups[middle:])

    def wrong(self, groups: Sequence[ChannelGroup]) -> str | None:
        """Return why these groups cannot be cut together; None if they can."""
        if not groups:
            return None
        if not self._left:
            return UNTRIED
        self._left -= 1
        kept = {group.name: _half(group) for group in groups}
        small = copy.deepcopy(self._model)
        try:
            channels.cut(groups, kept, small)
            found = self._run(small)
        except Exception:  # noqa: BLE001 - what the network's own code runs into has no common type
            return BROKEN
        if found.shape != self._whole.shape:
            return BROKEN
        if any(_spans(group) for group in groups):
            return None  # a mean over the channels is another one without them
        zeros = self._run(_zeroed(self._model, groups, kept))
        allowed = _OFF * (zeros - self._whole).abs().max() + _ROUNDING * self._whole.abs().max()
        return None if float((found - zeros).abs().max()) <= float(allowed) else OTHER

    def _run(self, model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            answers: torch.Tensor = model(self._images)
        return answers


def _awake(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode in which no norm hides its channels behind a scale of zero."""
    copied = copy.deepcopy(model).eval()
    for module in copied.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() == 1 and not weight.any():
            nn.init.ones_(weight)
    return copied


def _half(group: ChannelGroup) -> torch.Tensor:
    """Return which units stay: about half of them, drawn at random, and at least one."""
    order = torch.randperm(group.units, generator=torch.Generator().manual_seed(group.units))
    stays = torch.ones(group.units, dtype=torch.bool)
    stays[order[: group.units // 2]] = False
    return stays


def _spans(group: ChannelGroup) -> bool:
    """Whether a norm takes means over the group's channels."""
    return any(
        member.is_norm and not isinstance(member.target, nn.modules.batchnorm._BatchNorm) for member in group.members
    )


def _zeroed(model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a copy whose layers multiply what would go by zero where they take it in."""
    copied = copy.deepcopy(model)
    modules = dict(copied.named_modules())
    with torch.no_grad():
        for group in groups:
            for member in group.members:
                weight = getattr(modules.get(member.name), "weight", None)
                if member.role == "in" and isinstance(weight, torch.Tensor):
                    places = member.positions[~kept[group.name]].flatten().to(weight.device)
                    # Of a grouped convolution the weights hold only the first group's inputs along axis 1.
                    weight.index_fill_(1, places[places < weight.shape[1]], 0)
    return copied
