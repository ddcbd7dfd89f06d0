"""The stage adapt: a trained network gets used to the images of another camera, without labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.errors import ArtifactError, ImagesError
from tlopt.images import ImageFolder, batches, reopen
from tlopt.images.scanning import scan_any
from tlopt.publishing import Draft
from tlopt.settings import MOST_IMAGES, Setting
from tlopt.stages import stage

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_BATCH = 32
_FEW = 16  # images below which the statistics of a channel are guesswork


@stage(reads="torch", writes="torch")
def adapt(
    source: Artifact,
    out: Draft,
    *,
    images: Annotated[
        Path, Setting("Folder of images as the network will see them. Labels are not used.", common=True)
    ],
    prior: Annotated[
        float,
        Setting("Number of images that the training images count as. 0 leaves them out.", minimum=0, common=True),
    ] = 1024,
    trained_on: Annotated[Path | None, Setting("Folder of the training images, if they were moved.")] = None,
    samples: Annotated[int, Setting("Largest number of images to use.", minimum=1, maximum=MOST_IMAGES)] = 1024,
    seed: Annotated[int, Setting("Seed of the choice and the order of the images.", minimum=0)] = 0,
) -> Card:
    """Adapt a network to unlabelled images of a new camera.

    The means and variances of what each batch norm reads are estimated on these images and on the training images.
    The batch norm is changed by the difference. Weights stay as they are. Use a few dozen images or more. They should
    show all classes, about as often as the network will see them.

    Raises:
        ImagesError: There are no images, more than a tenth cannot be read, or the training images are gone.
        ArtifactError: The network has no batch norm, or was trained for int8.
    """
    if source.card.torch.qat is not None:
        raise ArtifactError(
            f"{source.path} was trained for int8: its scales fit only the batch norms that it has now.",
            hint="Adapt the artifact that it was trained from, then run tlopt qat again.",
        )
    folder = scan_any(images, known=source.card.classes)
    from tlopt import sources  # it takes seconds to import torch
    from tlopt.training.adaptation import adapt_norms, batch_norms

    network = sources.open_model(source).eval()
    if not batch_norms(network):
        raise ArtifactError(f"{source.path} has no batch norms, so there is nothing to adapt.")
    chosen = folder.select(np.random.default_rng(seed).permutation(len(folder))[:samples])
    if len(chosen) < _FEW:
        log.warning("The statistics of a layer need more images than %d. Use %d or more.", len(chosen), _FEW)
    training = _training_images(source, trained_on, samples, seed)
    moved = adapt_norms(
        network,
        _inputs(chosen, source, "Adapting"),
        prior=prior,
        training=None if training is None else _inputs(training, source, "Training images"),
    )
    log.info("%d images moved the means of the batch norms by %.2f standard deviations", len(chosen), moved)
    return sources.keep(network, out.folder, replace(source.card, files={}))


def _training_images(source: Artifact, moved: Path | None, samples: int, seed: int) -> ImageFolder | None:
    """Return the images that a network was trained on; None if tlopt did not train it.

    The statistics of a network that was not fine-tuned are those of its training images already.

    Raises:
        ImagesError: They are gone or have changed.
    """
    if source.card.images is None:
        return None
    try:
        folder = reopen(source.card.images, moved)["train"]
    except ImagesError as error:
        raise ImagesError(
            f"The training images, which the others are compared with: {error.message}",
            hint="Name their folder with --trained-on.",
        ) from error
    return folder.select(np.random.default_rng(seed).permutation(len(folder))[:samples])


def _inputs(folder: ImageFolder, source: Artifact, label: str) -> Iterator[torch.Tensor]:
    """Yield the images as inputs, float32 (n, 3, size, size)."""
    import torch

    for batch in batches(folder, source.card.preprocess, batch=_BATCH, label=label):
        yield torch.from_numpy(batch.inputs)
