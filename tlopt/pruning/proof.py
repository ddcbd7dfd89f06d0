"""Proof of cuts: groups of channels that a network can lose, tried on copies of it.

What a tracer says of a network may be wrong: the forward pass may split or reshape by fixed widths, mix
channels, or keep widths in attributes. So half of the channels go from a copy. It has to run, and to answer
as the network does with the same channels set to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from tlopt.pruning import channels
from tlopt.pruning.channels import ChannelGroup

_TRIALS = 100  # copies that are cut at most
_DRAWS = 2  # of what goes, before a set of groups counts as sound
_NUMBERS = 9  # of units that groups of one width lose
_OFF = 1e-2  # of what the channels change in the answers, and
_ROUNDING = 1e-4  # of the largest answer: the cut and the zeros may differ by both

BROKEN = "the network does not run without some of their channels"
OTHER = "the network answers otherwise without some of their channels than with zeros in their place"
UNTRIED = f"their cut was not tried, since {_TRIALS} other cuts were"

Bundle = Sequence[ChannelGroup]


def proven(
    model: nn.Module, variants: Sequence[Sequence[Bundle]], size: int
) -> tuple[tuple[ChannelGroup, ...], dict[str, str]]:
    """Return the groups whose channels can go, and for the others the layer that makes them and the reason.

    Args:
        model: The network.
        variants: What may be cut together, the finest first. Each is a list of groups that stand or fall together.
            One that works as a whole is taken; otherwise what works of the last.
        size: Side of the square input, pixels.
    """
    if not any(variants):
        return (), {}
    trials = _Trials(model, size, variants)
    reason: str | None = None
    for variant in variants:
        reason = trials.wrong(variant, draws=_DRAWS)
        if reason is None:
            return tuple(group for bundle in variant for group in bundle), {}
    bundles = list(variants[-1])
    sound = trials.split(bundles, reason)
    if len(sound) < len(bundles) and trials.wrong(sound, draws=_DRAWS):
        # Each part works alone and not with the others: they come in one by one.
        together: list[Bundle] = []
        for bundle in sound:
            if (reason := trials.wrong([*together, bundle], draws=_DRAWS)) is None:
                together.append(bundle)
            else:
                trials.blame(bundle, reason)
        sound = together
    return tuple(group for bundle in sound for group in bundle), trials.reasons


class _Trials:
    """A network and how it is tried.

    Attributes:
        reasons: Layer whose channels cannot be cut -> why.
    """

    def __init__(self, model: nn.Module, size: int, variants: Sequence[Sequence[Bundle]]) -> None:
        names = dict.fromkeys(group.name for variant in variants for bundle in variant for group in bundle)
        self._places = {name: place for place, name in enumerate(names)}
        self._model = _awake(model)
        random = torch.Generator().manual_seed(0)
        device = next(model.parameters()).device
        self._images = torch.randn(2, 3, size, size, generator=random).to(device)
        self._whole = self._run(self._model)
        self._left = _TRIALS
        self.reasons: dict[str, str] = {}

    def split(self, bundles: list[Bundle], reason: str | None) -> list[Bundle]:
        """Return what can be cut of bundles: all at once if that works, otherwise by halves.

        Args:
            bundles: What is tried.
            reason: Why they cannot be cut together, None if they can.
        """
        if reason is None:
            return bundles
        if len(bundles) == 1 or reason == UNTRIED:
            for bundle in bundles:
                self.blame(bundle, reason)
            return []
        middle = len(bundles) // 2
        parts = bundles[:middle], bundles[middle:]
        return [bundle for part in parts for bundle in self.split(part, self.wrong(part))]

    def blame(self, bundle: Bundle, reason: str) -> None:
        """Note why a bundle cannot be cut."""
        self.reasons[bundle[0].layer] = reason

    def wrong(self, bundles: Sequence[Bundle], *, draws: int = 1) -> str | None:
        """Return why these groups cannot be cut together; None if they can."""
        groups = [group for bundle in bundles for group in bundle]
        tried = (self._wrong(groups, draw) for draw in range(draws if groups else 0))
        return next((reason for reason in tried if reason is not None), None)

    def _wrong(self, groups: Sequence[ChannelGroup], draw: int) -> str | None:
        if not self._left:
            return UNTRIED
        self._left -= 1
        kept = {group.name: _fewer(group, self._places[group.name], draw) for group in groups}
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
        with _zeroed(self._model, groups, kept):
            zeros = self._run(self._model)
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


def _fewer(group: ChannelGroup, place: int, draw: int) -> torch.Tensor:
    """Return which units stay: about half of them or more, drawn at random.

    Another number goes of each group, and in each draw: a forward pass that takes several groups for equally wide is
    found out. Two groups lose as many twice only if their places are far apart.
    """
    numbers = min(group.units // 2, _NUMBERS - 1) + 1
    less = (place if draw == 0 else place // numbers) % numbers
    order = torch.randperm(group.units, generator=torch.Generator().manual_seed(group.units + draw))
    stays = torch.ones(group.units, dtype=torch.bool)
    stays[order[: group.units // 2 - less]] = False
    return stays


def _spans(group: ChannelGroup) -> bool:
    """Whether a norm, or a convolution that standardizes its weights, takes means over the group's channels."""
    return any(
        (member.is_norm and not isinstance(member.target, nn.modules.batchnorm._BatchNorm))
        or (member.role == "in" and isinstance(member.target, nn.Conv2d) and hasattr(member.target, "eps"))
        for member in group.members
    )


@contextmanager
def _zeroed(model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside the block, layers multiply what would go by zero where they take it in."""
    modules = dict(model.named_modules())
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for group in groups:
            for member in group.members:
                weight = getattr(modules.get(member.name), "weight", None)
                if member.role == "in" and isinstance(weight, torch.Tensor):
                    places = member.positions[~kept[group.name]].flatten().to(weight.device)
                    before.append((weight.data, weight.detach().clone()))
                    # Of a grouped convolution the weights hold only the first group's inputs along axis 1.
                    weight.data.index_fill_(1, places[places < weight.shape[1]], 0)
        yield
    finally:
        for weight, values in reversed(before):  # a weight that took in several groups had them all at first
            weight.copy_(values)
