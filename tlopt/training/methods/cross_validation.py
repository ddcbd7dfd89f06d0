"""Training on all images: what is kept is chosen, and judged, on images that were left out in turn."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tlopt.errors import ImagesError
from tlopt.images.pixels import Pixels
from tlopt.networks import head, layout, weights
from tlopt.training import distributed, memory, recording
from tlopt.training.hyperparameters import Hyperparameters, Method
from tlopt.training.inputs import predict
from tlopt.training.loop import Teacher
from tlopt.training.methods import probe, selection
from tlopt.training.methods.out_of_fold import dealt
from tlopt.training.methods.pseudo import Pool
from tlopt.training.methods.soup import train_several
from tlopt.training.methods.transfer import Transfer, soften
from tlopt.training.optimization import optimizers
from tlopt.training.outcome.history import History
from tlopt.training.resumption import checkpoint
from tlopt.training.resumption.checkpoint import Checkpoint, State

log = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]
_SHARES: dict[Method, tuple[float, ...]] = {"head": (0.0,), "full": (1.0,)}  # others compare all of `selection.SHARES`


@memory.kept()
def cross_validate(
    model: nn.Module,
    images: Pixels,
    settings: Hyperparameters,
    *,
    method: Method,
    teacher: Teacher | None = None,
    pool: Pool | None = None,
    checkpoints: Checkpoint | None = None,
    cache: Path | None = None,
    note: Callable[[dict[str, float]], None] | None = None,
) -> Transfer:
    """Train a network on all images, in place; `transfer` says what the methods do.

    `settings.folds` parts are left out in turn. The features of the frozen network are computed once. For each part a
    network is trained on the others, and all its candidates answer for that part. By these answers to all images one
    share between the probe and the fine-tuned weights is chosen. Then the network is trained on all images. The share
    is one of five, so that choosing it by the answers that are told flatters them by far less than their interval.

    Args:
        model: Pretrained, with an untrained classifier of the right width.
        images: Decoded on the way if they are not yet.
        settings: How to train.
        method: See `transfer`.
        teacher: Its answers join the loss.
        pool: Images without labels. For each part those answer for them that have not seen the part.
        checkpoints: Where the state of the training is kept.
        cache: Folder in which features are kept for later runs.
        note: Called with each epoch's record.

    Returns:
        The answers to each image by a network that had not seen it, and the history of the training on all.

    Raises:
        ImagesError: A class has one image only, copies aside.
    """
    optimizers.check(settings.optimizer)
    recording.expect_possible(settings)
    images.filled(label="Decoding images")
    whole = images.part(images.kept)
    folder = whole.folder
    contents = np.unique(np.array(folder.hashes), return_inverse=True)[1]
    fold = dealt(folder.labels, contents, seed=settings.seed, most=settings.folds)
    if (count := int(fold.max()) + 1) < 2:
        raise ImagesError(
            f"A class of {folder.source} has one image for training and validation, copies aside.",
            hint="Add images to it, or leave out --folds.",
        )
    each = _Each(
        model=model,
        whole=whole,
        method=method,
        teacher=teacher,
        pool=pool,
        note=note,
        begun=weights.snapshot(model, "cpu"),
    )
    if pool is not None:
        pool.look(model, cache=cache)
    if method != "full":
        with distributed.leader_first():
            each.features = probe.features(
                model, whole, device=distributed.device(), label="Features of images", cache=cache
            )[0]
    done = [outcome for outcome in checkpoint.earlier(checkpoints) if "fold" in outcome.record]
    for held in range(len(done), count):
        kept = replace(checkpoints, earlier=tuple(done)) if checkpoints else None
        known = each.settled(settings, done[0]) if done else settings
        done.append(each.answers(fold != held, known, kept, fold=held))
        if checkpoints is not None:  # the next training begins anew
            checkpoints = replace(checkpoints, resume=False)
    logits = {share: np.empty((len(folder), len(folder.classes)), np.float32) for share in each.shares}
    for held, outcome in enumerate(done):
        for share in each.shares:
            logits[share][fold == held] = outcome.tensors[f"{share}"].numpy()
    tried = [selection.candidate(share, logits[share], folder.labels) for share in each.shares]
    right = [logits[share].argmax(1) == folder.labels for share in each.shares]
    best = selection.unless_beaten(tried, right, selection.usual(len(folder), settings.soup))
    log.info("%d folds: kept %s of %s", count, best, tried)
    kept = replace(checkpoints, earlier=tuple(done)) if checkpoints else None
    start, end, history = each.train(np.ones(len(folder), bool), each.settled(settings, done[0]), kept)
    weights.load(model, selection.mean(start, end, best.share))
    layout.release(model).eval()
    history.trial = done[0].record["history"]["trial"]
    details: dict[str, Any] = {
        "method": method,
        "folds": {"folds": count, "images": len(folder)},
        "fine_tuned_share": best.share,
        "candidates": [dataclasses.asdict(candidate) for candidate in tried],
    }
    if method != "full":
        alone = tried[-1]
        details["probe"] = {"images": len(folder), "accuracy": alone.accuracy, "loss": alone.loss}
    if pool is not None:
        details["unlabelled"] = each.unlabelled
    if history.epochs:
        details |= {"best_epoch": int(history.epochs[history.best]["epoch"]), "precision": history.precision}
    return Transfer(logits=logits[best.share], labels=folder.labels, history=history, details=details)


@dataclass(kw_only=True)
class _Each:
    """What the trainings on different images share.

    Args:
        model: The network.
        whole: All images, decoded and readable.
        method: See `transfer`.
        teacher: Its answers join the loss.
        pool: Images without labels that were looked at.
        note: Called with each epoch's record.
        begun: The pretrained weights.
        features: Of the frozen network, float32 (n, features); empty for "full", which needs none.
    """

    model: nn.Module
    whole: Pixels
    method: Method
    teacher: Teacher | None
    pool: Pool | None
    note: Callable[[dict[str, float]], None] | None
    begun: Weights = field(repr=False)
    features: torch.Tensor = field(default_factory=lambda: torch.empty(0), repr=False)
    unlabelled: dict[str, Any] = field(default_factory=dict)  # what the card says of the last training

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares of fine-tuned weights that are compared."""
        return _SHARES.get(self.method, selection.SHARES)

    def settled(self, settings: Hyperparameters, first: State) -> Hyperparameters:
        """Return the settings with the precision that the first training found to be the faster."""
        return settings if self.method == "head" else replace(settings, precision=first.record["history"]["precision"])

    def answers(
        self, inside: np.ndarray, settings: Hyperparameters, checkpoints: Checkpoint | None, fold: int
    ) -> State:
        """Train on some images, and return the answers to the others, float32 (m, classes), by share."""
        start, end, history = self.train(inside, settings, checkpoints)
        others = self.whole.part(np.flatnonzero(~inside))
        found = {}
        for share in self.shares:
            weights.load(self.model, selection.mean(start, end, share))
            logits, _ = predict(self.model.to(distributed.device()), others, device=distributed.device())
            found[f"{share}"] = torch.from_numpy(logits)
        others.close()
        layout.release(self.model)
        return State(tensors=found, record={"fold": fold, "history": dataclasses.asdict(history)})

    def train(
        self, inside: np.ndarray, settings: Hyperparameters, checkpoints: Checkpoint | None
    ) -> tuple[Weights, Weights, History]:
        """Train on some images from the pretrained weights on; return the weights of the probe and the last ones."""
        weights.load(layout.release(self.model), self.begun)
        part = self.whole.part(np.flatnonzero(inside))
        if self.method != "full":
            fitted = probe.fit(
                self.features[torch.from_numpy(inside)],
                torch.from_numpy(part.folder.labels),
                classes=len(part.folder.classes),
                seed=settings.seed,
                bias=head.find(self.model).biased,
            )
            probe.fold(self.model, fitted)
        start, history = weights.snapshot(self.model, "cpu"), History()
        beside = None
        if self.pool is not None:
            beside = self.pool.sure(self.model)
            self.unlabelled = self.pool.record(beside, part.folder.labels)
        if self.method != "head":
            if self.method == "lp-ft":
                soften(self.model)
            moves: Literal["gradual", "full"] = "gradual" if self.method == "gradual" else "full"
            history, _ = train_several(
                self.model, part, None, replace(settings, moves=moves), teacher=self.teacher, checkpoints=checkpoints,
                note=self.note, beside=beside,
            )  # fmt: skip
        part.close()
        if beside is not None:
            beside.close()
        return start, weights.snapshot(self.model, "cpu"), history
