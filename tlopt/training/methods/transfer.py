"""From a pretrained network to a classifier of other images: the probe, fine-tuning, and what is kept of them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tlopt.images.pixels import LARGE, Pixels
from tlopt.networks import head, layout, sparsity, weights
from tlopt.training import distributed, memory, recording
from tlopt.training.hyperparameters import Hyperparameters, Method
from tlopt.training.inputs import predict
from tlopt.training.loop import Teacher
from tlopt.training.methods import probe, selection
from tlopt.training.methods.pseudo import Pool
from tlopt.training.methods.soup import train_several
from tlopt.training.optimization import optimizers
from tlopt.training.outcome.history import History
from tlopt.training.resumption.checkpoint import Checkpoint

log = logging.getLogger(__name__)

# Images of a large set that the start of fine-tuning is fitted to and judged on, so that it begins within a minute.
_START, _JUDGED = 1000, 250

_SOFT = 0.1  # of the probe's logits remains when "lp-ft" starts; see benchmarks/accuracy.py


@dataclass(kw_only=True)
class Transfer:
    """The outcome.

    Args:
        logits: float32 (n, classes), the network's answers on validation.
        labels: int64 (n,), of the validation images.
        history: Of the fine-tuning; without epochs if there was none.
        details: What was tried and chosen, as JSON types.
        answers: float32 (n, classes), the answers to reach where validation images have no labels; else None.
    """

    logits: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    answers: np.ndarray | None = field(default=None, repr=False)
    history: History
    details: dict[str, Any]


@memory.kept()
def transfer(
    model: nn.Module,
    train_images: Pixels,
    val_images: Pixels,
    settings: Hyperparameters,
    *,
    method: Method,
    fresh: bool = True,
    sparse: bool = False,
    teacher: Teacher | None = None,
    pool: Pool | None = None,
    checkpoints: Checkpoint | None = None,
    cache: Path | None = None,
    note: Callable[[dict[str, float]], None] | None = None,
) -> Transfer:
    """Train a network for labelled images, in place.

    "head" is logistic regression on the frozen network's features. "lp-ft" starts from it, made less sure
    of itself, and trains all layers (arXiv 2202.10054). "gradual" starts from the probe as it is, and frees
    stage by stage from the top (arXiv 1801.06146). After both, a network that is new to its classes keeps the
    fine-tuned weights, unless the probe or a mean of the two (arXiv 2109.01903) does better on validation
    beyond chance. "full" trains all layers from a classifier with random weights.

    Of more than `tlopt.images.pixels.LARGE` training images, the regression that "lp-ft" and "gradual"
    start from sees a thousand or four of each class, and images are decoded when they are needed.

    Args:
        model: Pretrained, with a classifier of the right width.
        train_images: Decoded on the way if they are not yet.
        val_images: The same, with the same preprocessing.
        settings: How to train.
        method: See above.
        fresh: The classifier is untrained; otherwise "full" goes on from it, and it competes with the probe.
        sparse: Keep the zeros of weights that are 2:4 sparse.
        teacher: Its answers join the loss.
        pool: Images without labels, which the probe, the network's own classifier or a teacher answers for.
        checkpoints: Where the state of the training is kept.
        cache: Folder in which features are kept for later runs.
        note: Called with each epoch's record.
    """
    optimizers.check(settings.optimizer)
    recording.expect_possible(settings)
    device = distributed.device()
    details: dict[str, Any] = {"method": method}
    large = len(train_images.folder) > LARGE
    if pool is not None:
        pool.look(model, cache=cache)  # first, as it tells of images that cannot be read
    if method == "full":
        if not large:
            train_images.filled(label="Decoding images")
            val_images.filled()
    else:
        part = large and method != "head"
        details["probe"] = _probe(
            model, train_images, val_images, settings, device, cache, part=part, keep_better=not fresh, sparse=sparse
        )
    beside = None
    if pool is not None:
        beside = pool.sure(model)
        details["unlabelled"] = pool.record(beside, train_images.folder.labels)
    history = History()
    if method != "head":
        start = weights.snapshot(model, "cpu")
        if method == "lp-ft" and fresh:
            soften(model)
        moves: Literal["gradual", "full"] = "gradual" if method == "gradual" else "full"
        settings = dataclasses.replace(settings, moves=moves)
        with sparsity.held(model) if sparse else contextlib.nullcontext():
            history, mixed = train_several(
                model, train_images, val_images, settings, teacher=teacher, checkpoints=checkpoints, note=note,
                beside=beside,
            )  # fmt: skip
        best = int(history.epochs[history.best]["epoch"])
        details |= {"best_epoch": best, "precision": history.precision, **mixed}
        if method != "full" or not fresh:
            usually = selection.usual(len(train_images), settings.soup)
            chosen, tried = selection.select(model, start, val_images, device=device, usually=usually, fresh=fresh)
            details |= {
                "fine_tuned_share": chosen.share,
                "candidates": [dataclasses.asdict(candidate) for candidate in tried],
            }
            log.info("kept %s of %s", chosen, tried)
    if beside is not None:
        beside.close()
    logits, labels = predict(model.to(device), val_images, device=device)
    layout.release(model).eval()
    return Transfer(logits=logits, labels=labels, history=history, details=details, answers=val_images.answered)


def soften(model: nn.Module) -> None:
    """Scale the classifier down: the same answers, with less confidence.

    A probe fits its training images all but perfectly, so that the loss has little left to teach the
    layers below it. Less sure of the same classes, it has more.
    """
    with torch.no_grad():
        for layer in head.find(model).layers:
            for parameter in layer.parameters():
                parameter.mul_(_SOFT)


def _probe(
    model: nn.Module,
    train_images: Pixels,
    val_images: Pixels,
    settings: Hyperparameters,
    device: torch.device,
    cache: Path | None,
    *,
    part: bool,
    keep_better: bool,
    sparse: bool,
) -> dict[str, Any]:
    """Fit the probe and put it into the network, unless the network's own classifier does better.

    With `part` only some of the images are looked at.
    """

    def features(images: Pixels, what: str, most: int) -> tuple[torch.Tensor, np.ndarray]:
        chosen = probe.chosen(images.folder.labels, most, seed=settings.seed) if part else None
        label = f"Features of {what} images"
        return probe.features(model, images, device=device, label=label, cache=cache, positions=chosen)

    with distributed.leader_first():
        inputs, labels = features(train_images, "training", _START)
        held, truth = features(val_images, "validation", _JUDGED)
    classifier = head.find(model)
    fitted = probe.fit(
        inputs,
        torch.from_numpy(labels),
        classes=len(train_images.folder.classes),
        seed=settings.seed,
        bias=classifier.biased,
    )
    if sparse and all(sparsity.follows(layer.weight) for layer in classifier.layers):
        fitted = dataclasses.replace(fitted, weight=fitted.weight * sparsity.mask(fitted.weight))
    found = selection.candidate(0.0, fitted.logits(held).numpy(), truth)
    details: dict[str, Any] = {
        "images": len(labels), "accuracy": found.accuracy, "loss": found.loss, "penalty": fitted.penalty,
    }  # fmt: skip
    if keep_better:
        own = selection.candidate(0.0, head.find(model.to("cpu")).answers(held).numpy(), truth)
        details["classifier_before"] = dataclasses.asdict(own)
        if (own.accuracy, -own.loss) >= (found.accuracy, -found.loss):
            return details
    model.to("cpu")
    probe.fold(model, fitted)
    return details
