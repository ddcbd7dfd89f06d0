"""The rival of a pruned network: the whole one on smaller images, which is as fast without a cut."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.cards.details import Macs, Rival, Speedup
from tlopt.errors import TloptError
from tlopt.pruning import latency
from tlopt.sources import open_model

log = logging.getLogger(__name__)

_STEP = 8  # pixels between the sizes that are looked at
_SMALLEST = 32  # pixels: most networks halve their input five times
_TRIES = 3  # of sizes, by the clock
_AS_FAST = 0.98  # of the pruned network's speed: timings differ by as much

# What a network's own code may run into at a size that it was not made for.
_OF_NETWORKS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError)

# Opens the whole network for square images of a size in pixels.
Opener = Callable[[int], nn.Module]
Judge = Callable[[nn.Module, int], tuple[float, float, int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Smaller:
    """The whole network on smaller images.

    Args:
        size: Side of the images, pixels.
        network: The whole network, made for that size.
        macs: Its multiply-adds for an image.
        speed: Batch -> how many times as fast as the pruned network it runs; empty if it was not timed.
    """

    size: int
    network: nn.Module
    macs: int
    speed: dict[int, float] = field(default_factory=dict)


def look(
    source: Artifact, pruned: nn.Module, macs: Macs, speedup: Speedup | None, *, images: str, judged: Judge
) -> Rival | None:
    """Look at the unpruned network on smaller images, and say so if it seems the better choice.

    Args:
        source: The artifact that was pruned.
        pruned: The pruned network, in evaluation mode.
        macs: Multiply-adds before and after.
        speedup: What was measured if a speed-up was asked for.
        images: Where the images lie.
        judged: Estimates the unpruned network at a size in pixels, without training: its accuracy, that of the
            pruned network, and on how many images.

    Returns:
        None if at no smaller size it is as cheap, if it takes one size only, or if it was pruned before: finetune has
        no such network to begin with.
    """
    card, fed = source.card, source.card.preprocess
    if card.torch.pruned is not None:
        return None

    def opened(size: int) -> nn.Module:
        return open_model(replace(source, card=replace(card, preprocess=replace(fed, size=size))))

    try:
        if speedup is None:
            found = of_macs(opened, fed.size, before=macs.before, after=macs.after)
        else:
            batches = [int(batch) for batch in speedup.measured]
            found = of_time(opened, pruned, fed.size, speedup=min(speedup.measured.values()), batches=batches)
    except (TloptError, *_OF_NETWORKS) as error:
        log.info("no other size than %d px: %s", fed.size, str(error).strip().partition("\n")[0])
        return None
    if found is None:
        return None
    try:
        accuracy, beside, count = judged(found.network, found.size)
    except (TloptError, *_OF_NETWORKS) as error:  # it is a remark beside the work, which is done
        log.info("the rival at %d px was not judged: %s", found.size, str(error).strip().partition("\n")[0])
        return None
    rival = Rival(
        image_size=found.size,
        macs=found.macs,
        speed={str(batch): round(ratio, 3) for batch, ratio in found.speed.items()},
        accuracy=accuracy,
        pruned_accuracy=beside,
        images=count,
        command=_command(card, images, found.size),
    )
    if rival.better:
        log.warning("%s", rival.told())
    else:
        log.info("%s", rival.told())
    return rival


def _command(card: Card, images: str, size: int) -> str:
    """Return the command that trains the unpruned network for images of a size."""
    began = card.lineage[0].telling if card.lineage and card.lineage[0].stage == "finetune" else {}
    weights = ["--weights", str(began["weights"])] if "weights" in began else []
    start = ["tlopt", "finetune", images, "-o", "OUT", "--model", card.model]
    return shlex.join([*start, *weights, "--image-size", str(size)])


def of_macs(opened: Opener, size: int, *, before: float, after: float) -> Smaller | None:
    """Return the whole network on the largest images at which it needs no more multiply-adds than the pruned one.

    Args:
        opened: Opens the whole network.
        size: Side of the images that the pruned network takes, pixels.
        before: Multiply-adds of the whole network at that size.
        after: Those of the pruned network.

    Returns:
        None if even the smallest images are too large.
    """
    side = _side(size * math.sqrt(after / before) + _STEP)  # one more: small maps are rounded up
    while (side := min(side, _side(size - 1))) >= _SMALLEST:
        network = opened(side)
        if (macs := multiply_adds(network, side)) <= after:
            return Smaller(size=side, network=network, macs=macs)
        side -= _STEP
    return None


def of_time(opened: Opener, pruned: nn.Module, size: int, *, speedup: float, batches: Sequence[int]) -> Smaller | None:
    """Return the whole network on the largest images at which it is as fast as the pruned one in ONNX Runtime.

    Both are timed in turns, at a few sizes.

    Args:
        opened: Opens the whole network.
        pruned: The pruned network.
        size: Side of the images that it takes, pixels.
        speedup: How much faster it is than the whole network at the same size.
        batches: Batch sizes at which both are timed.

    Returns:
        None if at no size that was tried it is as fast.
    """
    side, best, tried = _side(size / math.sqrt(speedup)), None, set[int]()
    for _ in range(_TRIES):
        side = max(_SMALLEST, min(side, _side(size - 1)))
        if side in tried or side >= size:
            break
        tried.add(side)
        network = opened(side)
        own, other = latency.compare([pruned, network], (size, side), batches)
        speed = {batch: own[batch] / other[batch] for batch in batches}
        slowest = min(speed.values())
        if slowest >= _AS_FAST and (best is None or side > best.size):
            best = Smaller(size=side, network=network, macs=multiply_adds(network, side), speed=speed)
        next_to = side + _STEP if slowest >= _AS_FAST else side - _STEP
        further = _side(side * math.sqrt(slowest))
        side = max(next_to, further) if slowest >= _AS_FAST else min(next_to, further)
    return best


def multiply_adds(model: nn.Module, size: int) -> int:
    """Return the multiply-adds of convolutions and linear layers for an image.

    Args:
        model: The network, in evaluation mode, on the CPU.
        size: Side of the square image, pixels.
    """
    found: list[int] = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        assert isinstance(layer.weight, torch.Tensor)
        found.append(output.numel() * layer.weight[0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(found)


def _side(pixels: float) -> int:
    return int(pixels) // _STEP * _STEP
