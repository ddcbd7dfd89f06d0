"""Structured pruning: whole channels go, and what is left is trained to answer as before."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.cards.details import Macs, Pruned, Split
from tlopt.errors import StageError
from tlopt.images.cache import Cache
from tlopt.images.of_artifact import parts_of
from tlopt.images.opening import open_pixels
from tlopt.images.pixels import Pixels
from tlopt.pruning.cuts import Cut, Limits
from tlopt.publishing import Draft
from tlopt.registry import require
from tlopt.settings import MOST_EPOCHS, MOST_IMAGES, MOST_IN_BATCH, Setting
from tlopt.stages import stage
from tlopt.training.hyperparameters import BATCH, Hyperparameters
from tlopt.training.network import check_logits

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tlopt.pruning.channels import Network
    from tlopt.pruning.ranking import Batches

log = logging.getLogger(__name__)

_RECOVERY = Hyperparameters(
    epochs=5, lr=2e-4, batch=BATCH, teacher_weight=0.7, backbone_lr=1.0, layer_decay=1.0, frozen_norm=True
)

_STEPS = 200  # of training after a cut, at least


@stage(reads="torch", writes="torch")
def prune(
    source: Artifact,
    out: Draft,
    *,
    cut: Cut,
    epochs: Annotated[
        int | None,
        Setting(
            f"Epochs of training after each cut. 0 leaves the training out. Default: {_RECOVERY.epochs}, or as many as "
            f"{_STEPS} steps take.",
            minimum=0,
            maximum=MOST_EPOCHS,
            group="Training",
            common=True,
        ),
    ] = None,
    lr: Annotated[
        float, Setting("Learning rate of the training after a cut.", minimum=0, group="Training")
    ] = _RECOVERY.lr,
    batch: Annotated[
        int, Setting("Images per step of the training after a cut.", minimum=1, maximum=MOST_IN_BATCH, group="Training")
    ] = BATCH,
    teacher_weight: Annotated[
        float,
        Setting(
            "Share of the loss that compares answers with the unpruned network's.",
            minimum=0,
            maximum=1,
            group="Training",
        ),
    ] = _RECOVERY.teacher_weight,
    samples: Annotated[
        int,
        Setting(
            "Number of training images on which channels are ranked.", minimum=8, maximum=MOST_IMAGES, group="Data"
        ),
    ] = 256,
    images: Annotated[
        Path | None,
        Setting("Folder of images to rank and train with. Default: the training images.", group="Data", common=True),
    ] = None,
    cache: Cache,
    rival: Annotated[
        bool, Setting("Compare with the unpruned network on smaller images, without training it.", group="Cut")
    ] = True,
    seed: Annotated[int, Setting("Seed of all random choices.", minimum=0, group="Training")] = 0,
) -> Card:
    """Remove the least important channels and train the rest.

    The result is a smaller network of the same architecture. It can be exported, quantized and
    pruned again like any other artifact. If the unpruned network on smaller images costs as little and looks more
    accurate, prune says so and names the command that trains it.

    Raises:
        ImagesError: Images are needed and there are none.
        MissingLibraryError: --speedup needs ONNX Runtime, and it is not installed.
        StageError: The network answers with probabilities, so that it cannot be trained.
        StageError: The network cannot be traced, nothing of it can be removed, or it cannot be made
            as much faster as asked.
    """
    from tlopt.networks import removal, reparametrized, sparsity
    from tlopt.pruning import analysis, criteria, telling, widths
    from tlopt.pruning.depth import splits
    from tlopt.pruning.ranking import ranked
    from tlopt.pruning.rival import look
    from tlopt.pruning.speedup import verified
    from tlopt.pruning.ways import Aim
    from tlopt.sources import keep, open_model
    from tlopt.training.inputs import central_batches
    from tlopt.training.loop import train
    from tlopt.training.methods import brief
    from tlopt.training.outcome.history import History

    if epochs != 0:
        check_logits(source.card.model, source.card.answers)
    ranking = criteria.load(cut.criterion)
    if cut.speedup is not None:
        require("tlopt.pruning.latency")  # says now, not after the ranking, what is missing
    model = reparametrized.folded(open_model(source))
    whole = copy.deepcopy(model)
    size = source.card.preprocess.size
    data = _open(source, images, cache, seed, needed=epochs != 0 or bool(ranking.NEEDS), blocks=cut.blocks == "auto")
    shown = partial(central_batches, data[0], samples, seed) if data else None
    if epochs is None:
        epochs = _enough(len(data[0].folder), batch) if data else 0
    training = replace(_RECOVERY, epochs=epochs, lr=lr, batch=batch, teacher_weight=teacher_weight, seed=seed)
    network = analysis.analyze(model, size)
    before = network.macs()
    telling.layers_kept(network)
    limits = Limits(multiple=cut.multiple, even=not ranking.COMPARABLE, least=widths.floors(network))
    aim = Aim(cut=cut, whole=whole, macs=before, size=size, limits=limits)
    finish = partial(_cut, shown, sparse=cut.sparsity == "2:4")
    recovery, tried = History(), list[Split]()
    for step in range(1, cut.steps + 1):
        network = analysis.analyze(model, size) if step > 1 else network
        scores = ranked(model, network.groups, ranking, shown, seed=seed)
        way = aim.way(model, network, step / cut.steps)
        if cut.blocks == "auto" and data is not None and shown is not None:
            with brief.few(data, training) as parts:
                judged = partial(_loss, finish, parts, training, whole, epochs > 0)
                task = splits.Task(size=size, criterion=ranking, shown=shown, seed=seed, whole=whole, judged=judged)
                gone, found = splits.best(model, network, scores, way, task)
            tried += found
            if gone:
                removal.remove(model, gone)
                network = analysis.analyze(model, size)
                scores = ranked(model, network.groups, ranking, shown, seed=seed)
        try:
            kept = way.kept(model, network, scores)
        except StageError as error:
            if step == 1:
                raise
            log.warning("Only %d of the %d steps could be done. %s", step - 1, cut.steps, error.message)
            break
        finish(model, network, kept)
        if epochs and data is not None:
            with sparsity.held(model):
                trained = train(model, *data, training, teacher=whole, label="Recovery")
            recovery.epochs += trained.epochs
            if not recovery.trial:  # one trial for all steps: the network hardly changes
                recovery.trial, training = trained.trial, replace(training, precision=trained.precision)
    macs = Macs(before=before, after=analysis.multiply_adds(model, size))
    telling.multiply_adds(before, macs.after, cut)
    speedup = None if cut.speedup is None else verified(whole, model, cut.speedup, cut.speedup_batch, size)
    pruned = Pruned(
        criterion=cut.criterion,
        sparsity=cut.sparsity,
        recovery=tuple(recovery.epochs),
        precision_trial=recovery.trial,
        speedup=speedup,
        splits=tuple(tried),
    )
    if rival and data is not None and macs.after < macs.before:
        beside = copy.deepcopy(model).eval()
        path = str(data[0].folder.source)
        pruned = replace(
            pruned, rival=look(source, beside, macs, speedup, images=path, judged=partial(_judged, data, beside, seed))
        )
    # Trained scales are those of the whole network.
    details = replace(source.card.torch, macs=macs, pruned=pruned, qat=None)
    return keep(model, out.folder, replace(source.card, details=details))


def _cut(
    shown: Callable[[str], Batches] | None,
    model: nn.Module,
    network: Network,
    kept: Mapping[str, torch.Tensor],
    *,
    sparse: bool,
) -> None:
    """Remove channels, in place, with what goes with it: zeros among the weights, and new statistics of the norms."""
    from tlopt.networks import sparsity
    from tlopt.pruning import channels, norms

    channels.cut(network.groups, kept, model)
    if sparse:
        sparsity.apply(model)
    if shown is not None:
        norms.recalibrate(model, (inputs for inputs, _ in shown("Measuring")))


def _loss(
    finish: Callable[[nn.Module, Network, Mapping[str, torch.Tensor]], None],
    parts: tuple[Pixels, Pixels],
    settings: Hyperparameters,
    whole: nn.Module,
    trained: bool,
    model: nn.Module,
    network: Network,
    kept: Mapping[str, torch.Tensor],
) -> float:
    """Return the loss of a network after a cut and a short training, on validation images; infinity if that failed."""
    from tlopt.networks import sparsity
    from tlopt.training.methods import brief

    finish(model, network, kept)
    try:
        with sparsity.held(model):
            return brief.loss_after(model, parts, settings, whole, trained=trained)
    except StageError as error:  # of this choice alone: others may train
        log.info("a choice of blocks failed: %s", error.message)
        return math.inf


def _enough(images: int, batch: int) -> int:
    """Return the epochs of recovery for so many training images: what a cut takes away comes back by steps."""
    steps = max(1, images // min(batch, images))  # of an epoch; the last, smaller batch is left out
    return max(_RECOVERY.epochs, math.ceil(_STEPS / steps))


def _judged(
    data: tuple[Pixels, Pixels], pruned: nn.Module, seed: int, whole: nn.Module, size: int
) -> tuple[float, float, int]:
    """Return the estimated accuracy of the unpruned network at a size, that of the pruned one, and on how many."""
    from tlopt.training.methods.estimate import estimate

    preprocess = replace(data[0].preprocess, size=size)
    with contextlib.ExitStack() as stack:
        # Not through the cache: of a large set only a part is decoded, for which others would have to go.
        opened = (open_pixels(part.folder, preprocess, cache_gb=0) for part in data)
        smaller = [stack.enter_context(contextlib.closing(pixels)) for pixels in opened]
        found = estimate(whole, (smaller[0], smaller[1]), pruned, data, seed=seed)
    return found.accuracy, found.beside, found.images


def _open(
    source: Artifact, images: Path | None, cache: Cache, seed: int, *, needed: bool, blocks: bool
) -> tuple[Pixels, Pixels] | None:
    """Return the decoded training and validation images, or None if there are none and none are needed.

    Raises:
        ImagesError: They are needed and missing, or of other classes.
    """
    if images is None and source.card.images is None and not (needed or blocks):
        return None
    keep = " --blocks keep" * blocks
    hint = f"Name some with --images, or prune blindly with --criterion magnitude --epochs 0{keep}."
    parts = parts_of(source, images, labels="all", draw=True, seed=seed, hint=hint)
    train, val = (
        open_pixels(part, source.card.preprocess, cache=cache.folder, cache_gb=cache.cache_gb).filled(
            label="Reading images"
        )
        for part in (parts.train, parts.held_out)
    )
    return train, val
