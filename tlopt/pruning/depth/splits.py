"""How many blocks go before channels do: a few splits, each judged by what is left after a short training."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn

from tlopt.cards.details import Split
from tlopt.networks import removal
from tlopt.pruning import analysis, widths
from tlopt.pruning.channels import Network
from tlopt.pruning.depth import blocks
from tlopt.pruning.depth.blocks import Block
from tlopt.pruning.ranking import Batches, ranked
from tlopt.pruning.ways import Way

log = logging.getLogger(__name__)

_PATIENCE = 2  # splits in a row that are no better end the search

# Cuts channels of a network, trains it shortly, and returns its loss on validation images, or infinity if the training
# failed; it may change the network.
Judge = Callable[[nn.Module, Network, Mapping[str, torch.Tensor]], float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What decides between splits.

    Args:
        size: Side of the input, pixels.
        criterion: How channels are ranked: a plug-in.
        shown: Name of a progress bar -> inputs and labels, the same at each call.
        seed: Of everything random.
        whole: The unpruned network.
        judged: Judges a network after a cut of its channels.
    """

    size: int
    criterion: ModuleType
    shown: Callable[[str], Batches]
    seed: int
    whole: nn.Module
    judged: Judge


def best(
    model: nn.Module, network: Network, scores: Mapping[str, torch.Tensor], way: Way, task: Task
) -> tuple[tuple[str, ...], tuple[Split, ...]]:
    """Return the names of the blocks to remove, and all splits that were tried.

    One block more goes at each split: the one whose removal changes the answers least for what it saves. Channels make
    up the rest. The search ends where blocks alone are enough, or where two splits in a row are no better.

    Args:
        model: The network. It stays as it is.
        network: Its groups and layers.
        scores: The harm of removing each unit.
        way: How much may stay.
        task: What decides.
    """
    left = blocks.find(model, task.size)
    if not left:
        log.warning("No block of this network adds what it computes to what it is given, so that only channels go.")
        return (), ()
    trial = copy.deepcopy(model)
    answers = blocks.logits_of(task.whole, (images for images, _ in task.shown("Asking the network")))
    gone: tuple[str, ...] = ()
    loss, enough = _judged(trial, network, scores, way, task)
    tried = [Split(blocks=gone, loss=loss)]
    while left and not enough and _improving(tried):
        chosen = _next(trial, network, left, way, task, answers)
        gone = (*(name for name in gone if not name.startswith(f"{chosen.name}.")), chosen.name)
        removal.remove(trial, [chosen.name])
        left = tuple(block for block in left if not block.layers <= chosen.layers)
        network = analysis.analyze(trial, task.size)
        scores = ranked(trial, network.groups, task.criterion, task.shown, seed=task.seed)
        loss, enough = _judged(trial, network, scores, way, task)
        tried.append(Split(blocks=gone, loss=loss))
        log.info("without %s: loss %s", ", ".join(gone), "none" if loss is None else f"{loss:.4f}")
    return min(tried, key=_loss).blocks, tuple(tried)


def _next(
    model: nn.Module, network: Network, left: Sequence[Block], way: Way, task: Task, answers: torch.Tensor
) -> Block:
    """Return the block that harms least for what it saves."""
    costs = {layer.name: way.cost(layer, {}) for layer in network.layers}
    harms = blocks.harms(model, left, task.shown, answers)

    def per_cost(block: Block) -> float:
        saved = sum(costs.get(layer, 0.0) for layer in block.layers)
        return harms[block.name] / saved if saved else math.inf

    return min(left, key=per_cost)


def _judged(
    model: nn.Module, network: Network, scores: Mapping[str, torch.Tensor], way: Way, task: Task
) -> tuple[float | None, bool]:
    """Return a split's loss, None if it cannot be had, and whether its blocks alone were enough."""
    allowed = way.allowed(model, network)
    budget = allowed * sum(way.cost(layer, {}) for layer in network.layers)
    kept = way.limits.choose(network, scores, way.cost, budget)
    removed = widths.removed(kept)
    if sum(way.cost(layer, removed) for layer in network.layers) > budget:
        return None, False
    loss = task.judged(copy.deepcopy(model), network, kept)
    return loss if math.isfinite(loss) else None, allowed >= 1


def _improving(tried: Sequence[Split]) -> bool:
    lowest = min(range(len(tried)), key=lambda i: _loss(tried[i]))
    return len(tried) - 1 - lowest < _PATIENCE or tried[lowest].loss is None


def _loss(split: Split) -> float:
    return float("inf") if split.loss is None else split.loss
