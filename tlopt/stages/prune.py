"""Structured pruning: whole channels go, and what is left is trained to answer as before."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from tlopt.artifact import Artifact, Card
from tlopt.errors import ImagesError, StageError
from tlopt.images import ImageFolder, reopen, scan
from tlopt.images.pixels import Pixels, open_pixels
from tlopt.nn.hyperparameters import Hyperparameters
from tlopt.progress import track
from tlopt.settings import Setting
from tlopt.stages import stage

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)


@stage(reads="torch", writes="torch")
def prune(
    source: Artifact,
    out: Path,
    *,
    ratio: Annotated[float, Setting("Share of the multiply-adds removed.", minimum=0, maximum=0.95)] = 0.3,
    criterion: Annotated[str, Setting("How channels are ranked.", plugins="criteria")] = "logits",
    multiple: Annotated[int, Setting("Channels stay multiples of this.", minimum=1)] = 8,
    steps: Annotated[int, Setting("Cuts on the way, each followed by the recovery.", minimum=1, maximum=20)] = 1,
    epochs: Annotated[int, Setting("Epochs of recovery after each cut; 0 for none.", minimum=0)] = 5,
    lr: Annotated[float, Setting("Learning rate of the recovery.", minimum=0)] = 1e-3,
    batch: Annotated[int, Setting("Images per step of the recovery.", minimum=1)] = 32,
    teacher_weight: Annotated[
        float, Setting("Share of the unpruned model's answers in the loss of the recovery.", minimum=0, maximum=1)
    ] = 0.7,
    samples: Annotated[int, Setting("Training images that channels are ranked on.", minimum=8)] = 256,
    images: Annotated[Path | None, Setting("Images for ranking and recovery, if not the training images.")] = None,
    cache_dir: Annotated[Path | None, Setting("Folder of decoded images; default ~/.cache/tlopt.")] = None,
    seed: Annotated[int, Setting("Seed of everything random.", minimum=0)] = 0,
) -> Card:
    """Remove the least important channels of a torch artifact and train the rest to make up for them.

    The result is a smaller network of the same architecture: it loads, exports, quantizes and prunes
    again like any other. Training images are those the artifact was made with, or --images.

    Raises:
        ImagesError: Images are needed and there are none.
        StageError: The network cannot be traced, or nothing of it can be removed.
    """
    from tlopt import criteria
    from tlopt.nn import channels, weights
    from tlopt.sources import open_model

    ranking = criteria.load(criterion)
    model = open_model(source)
    size = source.card.preprocess.size
    data = _open(source, images, seed, cache_dir, needed=epochs > 0 or bool(ranking.NEEDS))
    teacher = copy.deepcopy(model)
    before = channels.analyze(model, size).macs()
    recovered: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        # Equal factors: each cut takes the same share of what the one before it left.
        budget = before * (1 - ratio) ** (step / steps)
        _cut(model, size, budget, ranking, multiple, data, samples, seed)
        if epochs and data is not None:
            recovered += _recover(
                model,
                teacher,
                data,
                Hyperparameters(
                    epochs=epochs, lr=lr, batch=batch, seed=seed, teacher_weight=teacher_weight, backbone_lr=1.0,
                    layer_decay=1.0, frozen_norm=False,
                ),
            )  # fmt: skip
    after = channels.analyze(model, size).macs()
    log.info("multiply-adds: %.1f M of %.1f M left", after / 1e6, before / 1e6)
    details = {
        **source.card.details,
        **weights.save(model, out),
        "macs": {"before": before, "after": after},
        "pruned": {"criterion": criterion, "asked": {"ratio": ratio}, "recovery": recovered},
    }
    return replace(source.card, details=details)


def _cut(
    model: nn.Module,
    size: int,
    budget: float,
    ranking: Any,
    multiple: int,
    data: tuple[Pixels, Pixels] | None,
    samples: int,
    seed: int,
) -> None:
    """Rank the channels, remove the least important ones and measure the batch norms' statistics anew.

    Raises:
        StageError: Nothing can be removed.
    """
    from tlopt.nn import channels, gates, norms, widths

    network = channels.analyze(model, size)
    groups = network.groups
    if data is not None:
        norms.rebase(model, (inputs for inputs, _ in _batches(data[0], samples, seed, "Measuring")))
        if ranking.NEEDS:
            ranked = _batches(data[0], samples, seed, "Ranking channels")
            groups = gates.measure(model, groups, ranked, ranking.NEEDS, seed=seed)
    scores = {}
    for group in groups:
        score = ranking.score(group)
        scores[group.name] = score if ranking.COMPARABLE else score / score.mean().clamp_min(1e-12)
    kept = widths.choose(network, scores, lambda layer, removed: layer.macs(removed), budget, multiple=multiple)
    if not kept and network.macs() > budget:
        raise StageError(
            f"No group of channels is wide enough to be cut to a smaller multiple of {multiple}.",
            hint="Try a smaller --multiple.",
        )
    channels.cut(network.groups, kept, model)
    if data is not None and kept:
        norms.recalibrate(model, (inputs for inputs, _ in _batches(data[0], samples, seed, "Measuring")))


def _recover(
    model: nn.Module, teacher: nn.Module, data: tuple[Pixels, Pixels], settings: Hyperparameters
) -> list[dict[str, float]]:
    from tlopt.nn.training import train

    return train(model, *data, settings, teacher=teacher, label="Recovery").epochs


def _open(
    source: Artifact, images: Path | None, seed: int, cache: Path | None, *, needed: bool
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
        open_pixels(part, source.card.preprocess, cache=cache).filled(label="Reading images") for part in (train, val)
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

    from tlopt.nn.inputs import to_inputs

    chosen = np.random.default_rng(seed).permutation(len(pixels))[:samples]
    chunks = np.array_split(chosen, max(1, len(chosen) // 32))
    for chunk in track(chunks, label=label, total=len(chunks)):
        crops = np.stack([pixels.crop(i) for i in chunk.tolist()])
        yield (
            to_inputs(crops, pixels.preprocess, torch.device("cpu")),
            torch.from_numpy(pixels.labels[chunk]),
        )
