"""Structured pruning: whole channels go, and what is left is trained to answer as before."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from tlopt.artifact import Artifact
from tlopt.card import Card
from tlopt.details import Macs, Pruned, Speedup
from tlopt.errors import ImagesError, StageError
from tlopt.images import ImageFolder, reopen, scan
from tlopt.images.opening import open_pixels
from tlopt.images.pixels import Pixels
from tlopt.progress import track
from tlopt.publishing import Draft
from tlopt.registry import require
from tlopt.settings import Setting
from tlopt.stages import stage
from tlopt.training.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tlopt.pruning.channels import Network

log = logging.getLogger(__name__)

_TRIES = 6  # of widths, until the measured speed-up is the one asked for
_MARGIN = 1.03  # of the speed-up aimed at: timed in another process, networks are 1 or 2 % less fast
_CLOSE = 1.05  # times the speed-up aimed at is close enough


@stage(reads="torch", writes="torch")
def prune(
    source: Artifact,
    out: Draft,
    *,
    ratio: Annotated[float, Setting("Share of the multiply-adds that is removed.", minimum=0, maximum=0.95)] = 0.3,
    speedup: Annotated[
        float | None, Setting("Speed-up to reach with ONNX Runtime. It takes the place of --ratio.", minimum=1)
    ] = None,
    speedup_batch: Annotated[tuple[int, ...], Setting("Batch sizes for which --speedup must hold.", minimum=1)] = (
        1,
        32,
    ),
    criterion: Annotated[str, Setting("Criterion that ranks the channels.", plugins="criteria")] = "logits",
    multiple: Annotated[int, Setting("Number whose multiples the channels stay.", minimum=1)] = 8,
    sparsity: Annotated[
        Literal["none", "2:4"],
        Setting("2:4 also sets two of every four weights to zero. GPUs with sparse tensor cores skip those."),
    ] = "none",
    steps: Annotated[int, Setting("Number of cuts. Training follows each of them.", minimum=1, maximum=20)] = 1,
    epochs: Annotated[int, Setting("Epochs of training after each cut. 0 leaves the training out.", minimum=0)] = 5,
    lr: Annotated[float, Setting("Learning rate of the training after a cut.", minimum=0)] = 2e-4,
    batch: Annotated[int, Setting("Images per step of the training after a cut.", minimum=1)] = 32,
    teacher_weight: Annotated[
        float, Setting("Share of the loss that compares answers with the unpruned network's.", minimum=0, maximum=1)
    ] = 0.7,
    samples: Annotated[int, Setting("Number of training images on which channels are ranked.", minimum=8)] = 256,
    images: Annotated[
        Path | None, Setting("Folder of images to rank and train with. Default: the training images.")
    ] = None,
    cache_dir: Annotated[Path | None, Setting("Folder that keeps decoded images. Default: ~/.cache/tlopt.")] = None,
    cache_gb: Annotated[float, Setting("Largest size of that folder, in GB. 0 keeps nothing.", minimum=0)] = 20.0,
    seed: Annotated[int, Setting("Seed of all random choices.", minimum=0)] = 0,
) -> Card:
    """Remove the least important channels and train the rest.

    The result is a smaller network of the same architecture. It can be exported, quantized and
    pruned again like any other artifact.

    Raises:
        ImagesError: Images are needed and there are none.
        MissingLibraryError: --speedup needs ONNX Runtime, and it is not installed.
        StageError: The network cannot be traced, nothing of it can be removed, or it cannot be made
            as much faster as asked.
    """
    from tlopt.networks import sparsity as two_of_four
    from tlopt.pruning import channels, criteria, norms, widths
    from tlopt.sources import keep, open_model
    from tlopt.training.loop import train

    ranking = criteria.load(criterion)
    if speedup is not None:
        require("tlopt.pruning.latency")  # says now, not after the ranking, what is missing
    model = open_model(source)
    whole = copy.deepcopy(model)
    size = source.card.preprocess.size
    needed = epochs > 0 or bool(ranking.NEEDS)
    data = _open(source, images, seed, cache_dir, cache_gb, needed=needed)
    settings = Hyperparameters(
        epochs=epochs, lr=lr, batch=batch, seed=seed, teacher_weight=teacher_weight, backbone_lr=1.0, layer_decay=1.0,
        frozen_norm=True,
    )  # fmt: skip
    network = channels.analyze(model, size)
    before = network.macs()
    limits = _Limits(multiple=multiple, even=not ranking.COMPARABLE, least=widths.floors(network))
    recovery: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        network, scores = _ranked(model, size, ranking, data, samples, seed)
        # Equal factors: each cut takes the same share of what the one before it left.
        try:
            if speedup is None:
                kept = _fewer(network, scores, before * (1 - ratio) ** (step / steps), limits)
            else:
                goal = _Goal(speedup=speedup ** (step / steps), batches=speedup_batch, size=size, limits=limits)
                kept = _faster(model, whole, network, scores, goal)
        except StageError as error:
            if step == 1:
                raise
            log.warning("The result is that of %d of the %d steps. %s", step - 1, steps, error.message)
            break
        channels.cut(network.groups, kept, model)
        if sparsity == "2:4":
            two_of_four.apply(model)
        if data is not None:
            norms.recalibrate(model, (inputs for inputs, _ in _batches(data[0], samples, seed, "Measuring")))
        if epochs and data is not None:
            with two_of_four.held(model):
                recovery += train(model, *data, settings, teacher=whole, label="Recovery").epochs
    after = channels.analyze(model, size).macs()
    log.info("multiply-adds: %.1f M of %.1f M left", after / 1e6, before / 1e6)
    if speedup is None and after > (1 - ratio) * before:
        log.warning(
            "Only %.0f %% of the multiply-adds could go, not %.0f %%: a tenth of each group of channels stays, and "
            "widths are multiples of %d.", 100 * (1 - after / before), 100 * ratio, multiple,
        )  # fmt: skip
    pruned = Pruned(
        criterion=criterion,
        sparsity=sparsity,
        recovery=tuple(recovery),
        speedup=None if speedup is None else _verified(whole, model, speedup, speedup_batch, size),
    )
    details = replace(
        source.card.torch,
        macs=Macs(before=before, after=after),
        pruned=pruned,
        qat=None,  # trained scales are those of the whole network
    )
    return keep(model, out.folder, replace(source.card, details=details))


def _ranked(
    model: nn.Module, size: int, ranking: ModuleType, data: tuple[Pixels, Pixels] | None, samples: int, seed: int
) -> tuple[Network, dict[str, torch.Tensor]]:
    """Return the network's groups and the score of each of their units."""
    from tlopt.pruning import channels, gates, norms

    network = channels.analyze(model, size)
    groups = network.groups
    if data is not None:
        norms.rebase(model, (inputs for inputs, _ in _batches(data[0], samples, seed, "Measuring")))
        if ranking.NEEDS:
            chosen = _batches(data[0], samples, seed, "Ranking channels")
            groups = gates.measure(model, groups, chosen, ranking.NEEDS, seed=seed)
    return network, {group.name: ranking.score(group) for group in groups}


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """What the widths must be: multiples, all groups cut alike or not, and the units of each that stay."""

    multiple: int
    even: bool
    least: Mapping[str, int]


def _fewer(
    network: Network, scores: Mapping[str, torch.Tensor], budget: float, limits: _Limits
) -> dict[str, torch.Tensor]:
    """Return which units stay, so that the multiply-adds fall to the budget.

    Raises:
        StageError: Nothing can be removed.
    """
    from tlopt.pruning import widths

    kept = widths.choose(
        network, scores, lambda layer, removed: layer.macs(removed), budget,
        multiple=limits.multiple, even=limits.even, least=limits.least,
    )  # fmt: skip
    if not kept and network.macs() > budget:
        raise StageError(
            f"No group of channels is wide enough to be cut to a smaller multiple of {limits.multiple}.",
            hint="Try a smaller --multiple.",
        )
    return kept


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """A speed-up over the unpruned network, and how it is measured and reached."""

    speedup: float
    batches: tuple[int, ...]
    size: int
    limits: _Limits


def _faster(
    model: nn.Module, whole: nn.Module, network: Network, scores: Mapping[str, torch.Tensor], goal: _Goal
) -> dict[str, torch.Tensor]:
    """Return which units stay, so that the exported network is as much faster as asked.

    Widths are chosen by a table of measured layer times. A network of these widths is then exported
    and timed beside the unpruned one, and the widths chosen anew until what was measured is what was
    asked: time depends on the widths alone, so this comes before the recovery.

    Raises:
        StageError: Even the narrowest network is not as fast.
    """
    from tlopt.pruning import channels, latency, widths

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


def _measured(whole: nn.Module, model: nn.Module, goal: _Goal) -> float:
    """Return how much faster a network is than the unpruned one, at the worst of the batch sizes."""
    from tlopt.pruning import latency

    old, new = latency.compare([whole, model], goal.size, goal.batches)
    return min(old[batch] / new[batch] for batch in goal.batches)


def _verified(whole: nn.Module, model: nn.Module, asked: float, batches: tuple[int, ...], size: int) -> Speedup:
    """Measure the finished network once more beside the unpruned one, and say so if it falls short."""
    from tlopt.pruning import latency

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


def _open(
    source: Artifact, images: Path | None, seed: int, cache: Path | None, cache_gb: float, *, needed: bool
) -> tuple[Pixels, Pixels] | None:
    """Return the decoded training and validation images, or None if there are none and none are needed.

    Raises:
        ImagesError: They are needed and missing, or of other classes.
    """
    ref = source.card.images
    if images is None and ref is None:
        if not needed:
            return None
        raise ImagesError(
            f"{source.path} was imported and knows no training images, which ranking and recovery need.",
            hint="Name some with --images, or prune blindly with --criterion magnitude --epochs 0.",
        )
    if images is not None:
        folder = _labelled(scan(images), source)
        shares = {"val": ref.val, "test": ref.test, "seed": ref.seed} if ref else {"val": 0.1, "test": 0, "seed": seed}
        parts = folder.split(**shares)  # type: ignore[arg-type]
    else:
        assert ref is not None
        parts = reopen(ref)
    train, val = parts["train"], parts["val"] if len(parts["val"]) else parts["train"]
    opened = [
        open_pixels(part, source.card.preprocess, cache=cache, cache_gb=cache_gb).filled(label="Reading images")
        for part in (train, val)
    ]
    return opened[0], opened[1]


def _labelled(folder: ImageFolder, source: Artifact) -> ImageFolder:
    """Return the images with labels that index the artifact's classes."""
    classes = source.card.classes
    if set(folder.classes) != set(classes):
        odd = sorted(set(folder.classes) ^ set(classes))
        raise ImagesError(
            f"The classes of {folder.path} are not those of {source.path}: {', '.join(odd[:5])}"
            f"{' …' if len(odd) > 5 else ''} on one side only.",
            hint="Each class folder needs the name of a class of the artifact.",
        )
    order = np.array([classes.index(name) for name in folder.classes], dtype=np.int64)
    return replace(folder, classes=classes, labels=order[folder.labels])


def _batches(pixels: Pixels, samples: int, seed: int, label: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield central crops and labels of some training images, the same ones each time."""
    import torch

    from tlopt.training.inputs import to_inputs

    chosen = np.random.default_rng(seed).permutation(len(pixels))[:samples]
    chunks = np.array_split(chosen, max(1, len(chosen) // 32))
    for chunk in track(chunks, label=label, total=len(chunks)):
        crops = np.stack([pixels.crop(i) for i in chunk.tolist()])
        yield (
            to_inputs(crops, pixels.preprocess, torch.device("cpu")),
            torch.from_numpy(pixels.labels[chunk]),
        )
