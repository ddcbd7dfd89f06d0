"""Cutting until the exported network is as much faster as asked, by the clock."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tlopt.cards.details import Speedup
from tlopt.errors import StageError
from tlopt.pruning import channels, latency
from tlopt.pruning.channels import Layer, Network
from tlopt.pruning.cuts import Limits

log = logging.getLogger(__name__)

_TRIES = 6  # of widths, until the measured speed-up is the one asked for
_MARGIN = 1.03  # of the speed-up aimed at: timed in another process, networks are 1 or 2 % less fast
_CLOSE = 1.05  # times the speed-up aimed at is close enough


@dataclass(frozen=True, kw_only=True)
class ByTime:
    """The exported network becomes as much faster than the unpruned one as asked.

    Widths are chosen by a table of measured layer times. Time depends on the widths alone, so this comes before the
    recovery.

    Args:
        speedup: Over the unpruned network, at the worst of the batch sizes.
        batches: Batch sizes.
        size: Side of the input.
        limits: Of the widths.
        whole: The unpruned network.
        table: Measured times of the layers.
    """

    speedup: float
    batches: tuple[int, ...]
    size: int
    limits: Limits
    whole: nn.Module
    table: latency.Table

    def cost(self, layer: Layer, removed: Mapping[str, int]) -> float:
        """Return a layer's share of the network's time when so many units are removed from each group."""
        return self.table.cost(layer, removed)

    def allowed(self, model: nn.Module, network: Network) -> float:  # noqa: ARG002 - of every way
        """Return what share of its time a network may keep, by the clock."""
        return self._measured(model) / (self.speedup * _MARGIN)

    def kept(self, model: nn.Module, network: Network, scores: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return which units stay.

        A network of the widths that the table tells is exported and timed beside the unpruned one, and the widths are
        chosen anew until what was measured is what was asked.

        Raises:
            StageError: Even the narrowest network is not as fast.
        """
        wanted = self.speedup * _MARGIN
        already = self._measured(model)
        if already >= wanted:
            return {}
        aim, best, fastest = wanted / already, None, already
        low, high = 1.0, math.inf  # aims that were too slow and fast enough
        for _ in range(_TRIES):
            total = sum(self.cost(layer, {}) for layer in network.layers)
            kept = self.limits.choose(network, scores, self.cost, total / aim)
            trial = copy.deepcopy(model)
            channels.cut(network.groups, kept, trial)
            found = self._measured(trial)
            log.info("widths for %.2f x by the table run %.2f x as fast", aim * already, found)
            fastest = max(fastest, found)
            if found >= self.speedup and (best is None or found < best[0]):
                best = found, kept
            if wanted <= found < wanted * _CLOSE:
                break
            low, high = (low, min(high, aim)) if found >= wanted else (max(low, aim), high)
            aim *= wanted * (1 + _CLOSE) / 2 / found
            if not low < aim < high and low < high < math.inf:
                aim = math.sqrt(low * high)
        if best is None:
            raise StageError(
                f"The network cannot be made {self.speedup:g} x as fast in ONNX Runtime: with the fewest channels "
                f"tried it is {fastest:.2f} x as fast.",
                hint="Ask for a smaller --speedup, or try a smaller --multiple.",
            )
        return best[1]

    def _measured(self, model: nn.Module) -> float:
        """Return how much faster a network is than the unpruned one, at the worst of the batch sizes."""
        old, new = latency.compare([self.whole, model], self.size, self.batches)
        return min(old[batch] / new[batch] for batch in self.batches)


def verified(whole: nn.Module, model: nn.Module, asked: float, batches: tuple[int, ...], size: int) -> Speedup:
    """Measure the finished network once more beside the unpruned one, and say so if it falls short."""
    old, new = latency.compare([whole, model], size, batches, seconds=3)
    found = {str(batch): round(old[batch] / new[batch], 3) for batch in batches}
    log.info("asked for %.2f x, measured %s", asked, found)
    if min(found.values()) < asked:
        log.warning(
            "The pruned network is %s as fast as before in ONNX Runtime, less than the %g x asked for.",
            ", ".join(f"{ratio:.2f} x (batch {batch})" for batch, ratio in found.items()),
            asked,
        )
    return Speedup(
        asked=asked,
        measured=found,
        before_ms={str(batch): round(ms, 3) for batch, ms in old.items()},
        after_ms={str(batch): round(ms, 3) for batch, ms in new.items()},
    )
