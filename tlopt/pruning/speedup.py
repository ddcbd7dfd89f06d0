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
from tlopt.pruning import channels, latency, widths
from tlopt.pruning.channels import Network
from tlopt.pruning.cuts import Limits

log = logging.getLogger(__name__)

_TRIES = 6  # of widths, until the measured speed-up is the one asked for
_MARGIN = 1.03  # of the speed-up aimed at: timed in another process, networks are 1 or 2 % less fast
_CLOSE = 1.05  # times the speed-up aimed at is close enough


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A speed-up over the unpruned network, and how it is measured and reached."""

    speedup: float
    batches: tuple[int, ...]
    size: int
    limits: Limits


def faster(
    model: nn.Module, whole: nn.Module, network: Network, scores: Mapping[str, torch.Tensor], goal: Goal
) -> dict[str, torch.Tensor]:
    """Return which units stay, so that the exported network is as much faster as asked.

    Widths are chosen by a table of measured layer times. A network of these widths is then exported
    and timed beside the unpruned one, and the widths chosen anew until what was measured is what was
    asked: time depends on the widths alone, so this comes before the recovery.

    Raises:
        StageError: Even the narrowest network is not as fast.
    """
    limits = goal.limits
    table = latency.measure(model, network, goal.size, goal.batches)
    wanted = goal.speedup * _MARGIN
    already = _measured(whole, model, goal)
    if already >= wanted:
        return {}
    aim, best, fastest = wanted / already, None, already
    low, high = 1.0, math.inf  # aims that were too slow and fast enough
    for _ in range(_TRIES):
        total = sum(table.cost(layer, {}) for layer in network.layers)
        kept = widths.choose(
            network, scores, table.cost, total / aim, multiple=limits.multiple, even=limits.even, least=limits.least
        )
        trial = copy.deepcopy(model)
        channels.cut(network.groups, kept, trial)
        found = _measured(whole, trial, goal)
        log.info("widths for %.2f x by the table run %.2f x as fast", aim * already, found)
        fastest = max(fastest, found)
        if found >= goal.speedup and (best is None or found < best[0]):
            best = found, kept
        if wanted <= found < wanted * _CLOSE:
            break
        low, high = (low, min(high, aim)) if found >= wanted else (max(low, aim), high)
        aim *= wanted * (1 + _CLOSE) / 2 / found
        if not low < aim < high and low < high < math.inf:
            aim = math.sqrt(low * high)
    if best is None:
        raise StageError(
            f"The network cannot be made {goal.speedup:g} x as fast in ONNX Runtime: with the fewest channels "
            f"tried it is {fastest:.2f} x as fast.",
            hint="Ask for a smaller --speedup, or try a smaller --multiple.",
        )
    return best[1]


def _measured(whole: nn.Module, model: nn.Module, goal: Goal) -> float:
    """Return how much faster a network is than the unpruned one, at the worst of the batch sizes."""
    old, new = latency.compare([whole, model], goal.size, goal.batches)
    return min(old[batch] / new[batch] for batch in goal.batches)


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
