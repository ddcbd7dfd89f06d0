"""Two ways to the widths that were asked for: by multiply-adds, and by the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from tlopt.errors import StageError
from tlopt.pruning.channels import Layer, Network
from tlopt.pruning.cuts import Cut, Limits

Kept = dict[str, torch.Tensor]


class Way(Protocol):
    """How much may stay of a network, and what of its channels then does."""

    @property
    def limits(self) -> Limits:
        """What the widths must be."""

    def cost(self, layer: Layer, removed: Mapping[str, int]) -> float:
        """Return what a layer costs when so many units are removed from each group."""

    def allowed(self, model: nn.Module, network: Network) -> float:
        """Return what share of its cost a network may keep; 1 or more if it is cheap enough as it is."""

    def kept(self, model: nn.Module, network: Network, scores: Mapping[str, torch.Tensor]) -> Kept:
        """Return which units stay.

        Raises:
            StageError: Nothing can be removed, or even the narrowest network costs too much.
        """


@dataclass(frozen=True, kw_only=True)
class ByMacs:
    """Multiply-adds fall to a budget, or as near to it as widths get."""

    budget: float
    limits: Limits

    def cost(self, layer: Layer, removed: Mapping[str, int]) -> float:
        """Return a layer's multiply-adds."""
        return layer.macs(removed)

    def allowed(self, model: nn.Module, network: Network) -> float:  # noqa: ARG002 - of every way
        """Return what share of its multiply-adds a network may keep."""
        return self.budget / network.macs()

    def kept(
        self,
        model: nn.Module,  # noqa: ARG002 - as above
        network: Network,
        scores: Mapping[str, torch.Tensor],
    ) -> Kept:
        """Return which units stay.

        Raises:
            StageError: Nothing can be removed.
        """
        kept = self.limits.choose(network, scores, self.cost, self.budget)
        if not kept and network.macs() > self.budget:
            raise StageError(
                f"No group of channels is wide enough to be cut to a smaller multiple of {self.limits.multiple}.",
                hint="Try a smaller --multiple.",
            )
        return kept


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Where the cuts lead to.

    Args:
        cut: What was asked for.
        whole: The unpruned network.
        macs: Its multiply-adds.
        size: Side of its input.
        limits: Of the widths.
    """

    cut: Cut
    whole: nn.Module
    macs: float
    size: int
    limits: Limits

    def way(self, model: nn.Module, network: Network, share: float) -> Way:
        """Return a share of the way, as an exponent: each cut takes the same factor.

        Args:
            model: The network, as far as it is pruned.
            network: Its groups and layers.
            share: Of the way.
        """
        if self.cut.speedup is None:
            return ByMacs(budget=self.macs * (1 - self.cut.ratio) ** share, limits=self.limits)
        from tlopt.pruning import latency
        from tlopt.pruning.speedup import ByTime

        batches = self.cut.speedup_batch
        table = latency.measure(model, network, self.size, batches)
        return ByTime(
            speedup=self.cut.speedup**share, batches=batches, size=self.size, limits=self.limits, whole=self.whole,
            table=table,
        )  # fmt: skip
