"""How wide each group of channels becomes: the least important units for a given cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from tlopt.pruning.channels import ChannelGroup, Layer, Network

LEAST = 0.1  # share of a group's units that always stays: narrower, and the network does not recover
_AHEAD = 4  # steps that are weighed at once

Cost = Callable[[Layer, Mapping[str, int]], float]


def choose(
    network: Network,
    scores: Mapping[str, torch.Tensor],
    cost: Cost,
    budget: float,
    *,
    multiple: int,
    even: bool = False,
    least: Mapping[str, int] | None = None,
) -> dict[str, torch.Tensor]:
    """Return for each group which of its units stay, so that the cost falls to the budget.

    Greedy: of all groups, the step that loses the least importance per cost saved is taken, until
    the budget is met or nothing is left to remove. A step takes a group's least important units up
    to a following multiple of channels; several steps are weighed at once, because the cost need
    not fall at each. The last of them may save more than was needed: steps are then taken back, the
    most important first, while the budget holds.

    Args:
        network: Groups and layers.
        scores: Group name -> float32 (units,), the harm of removing each unit.
        cost: The cost of a layer when so many units of each group are removed.
        budget: What the layers may cost together.
        multiple: Channels of each group stay a multiple of this.
        even: Take about the same share from every group, and let the scores rank within groups only.
        least: Group name -> units that always stay; by default those of `floors`.

    Returns:
        Group name -> bool (units,), for groups that lose units.
    """
    search = _Search(network, scores, cost, multiple, even, floors(network) if least is None else least)
    while search.total > budget:
        options = {name: option for name, option in search.options.items() if option is not None}
        if not options:
            break
        name = min(options, key=lambda n: options[n])
        search.take(name, options[name][1])
    while (back := search.back(budget)) is not None:
        search.take(*back)
    kept = {}
    for name, count in search.removed.items():
        if count:
            kept[name] = torch.ones(len(scores[name]), dtype=torch.bool)
            kept[name][search.order[name][:count]] = False
    return kept


def floors(network: Network) -> dict[str, int]:
    """Return how many units of each group always stay.

    The layers that a group passes through stand for it, too: without the block that makes its channels first, a group
    is named after the next layer that makes them.
    """
    least = {group.name: max(1, round(LEAST * group.units)) for group in network.groups}
    through = {
        member.name: least[group.name] for group in network.groups for member in group.members if member.role == "out"
    }
    return {**through, **least}


class _Search:
    """The widths reached so far and each group's best next step.

    Attributes:
        removed: Group -> units removed so far.
        total: Cost of all layers.
        options: Group -> harm per cost saved of its best next step (or the share then removed) and
            the units then removed; None if it has none.
        order: Group -> its units, the least important first.
    """

    def __init__(
        self,
        network: Network,
        scores: Mapping[str, torch.Tensor],
        cost: Cost,
        multiple: int,
        even: bool,
        least: Mapping[str, int],
    ) -> None:
        self._cost, self._even = cost, even
        self._touched: dict[str, list[Layer]] = {group.name: [] for group in network.groups}
        for layer in network.layers:
            for name in {*layer.outputs, *layer.inputs}:
                self._touched[name].append(layer)
        self.order = {name: torch.argsort(score, stable=True) for name, score in scores.items()}
        self._harm = {
            name: [0.0, *torch.cumsum(score[self.order[name]].double(), 0).tolist()] for name, score in scores.items()
        }
        self._steps = {group.name: _steps(group, multiple, least[group.name]) for group in network.groups}
        self.removed = dict.fromkeys(self._steps, 0)
        self._costs = {layer.name: cost(layer, self.removed) for layer in network.layers}
        self.total = sum(self._costs.values())
        self.options = {name: self._best(name) for name in self._steps}

    def take(self, name: str, count: int) -> None:
        """Remove so many units of a group in all."""
        self.removed[name] = count
        for layer in self._touched[name]:
            self._costs[layer.name] = self._cost(layer, self.removed)
        self.total = sum(self._costs.values())
        for other in {other for layer in self._touched[name] for other in (*layer.outputs, *layer.inputs)}:
            self.options[other] = self._best(other)

    def back(self, budget: float) -> tuple[str, int] | None:
        """Return the group, and the units it then lacks, whose step back regains most and keeps to the budget."""
        best: tuple[float, str, int] | None = None
        for name, before in self.removed.items():
            fewer = max((step for step in (0, *self._steps[name]) if step < before), default=None)
            if fewer is None or self.total + self._change(name, fewer) > budget:
                continue
            harm = before / len(self.order[name]) if self._even else self._harm[name][before] - self._harm[name][fewer]
            best = max(best or (harm, name, fewer), (harm, name, fewer))
        return None if best is None else best[1:]

    def _change(self, name: str, count: int) -> float:
        """Return what the cost rises by when a group lacks so many units instead."""
        layers = self._touched[name]
        then = sum(self._cost(layer, {**self.removed, name: count}) for layer in layers)
        return then - sum(self._costs[layer.name] for layer in layers)

    def _best(self, name: str) -> tuple[float, int] | None:
        layers, before = self._touched[name], self.removed[name]
        now = sum(self._costs[layer.name] for layer in layers)
        best = None
        for count in [step for step in self._steps[name] if step > before][:_AHEAD]:
            saved = now - sum(self._cost(layer, {**self.removed, name: count}) for layer in layers)
            if saved > 0:
                if self._even:
                    return count / len(self.order[name]), count
                option = ((self._harm[name][count] - self._harm[name][before]) / saved, count)
                best = option if best is None else min(best, option)
        return best


def _steps(group: ChannelGroup, multiple: int, least: int) -> list[int]:
    """Return the numbers of units whose removal leaves a multiple of channels, ascending."""
    return [
        count
        for count in range(1, group.units - least + 1)
        if (group.units - count) * group.channels_per_unit % multiple == 0
    ]


def removed(kept: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return how many units each group loses."""
    return {name: int((~stays).sum()) for name, stays in kept.items()}
