"""The stage qat: quantization-aware training of a fine-tuned network."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends import open_runner, reduced_range
from tlopt.cards.card import Card, ImagesRef
from tlopt.cards.details import Runtime, TrainedScales
from tlopt.errors import ImagesError, SettingError
from tlopt.images import ImageFolder, Split, batches
from tlopt.images.cache import Cache
from tlopt.images.of_artifact import OTHERS, trained_on
from tlopt.images.scanning import every_image, is_flat
from tlopt.publishing import Draft
from tlopt.registry import require
from tlopt.settings import Setting, Without, ruled
from tlopt.stages import stage
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.network import Network, of_artifact
from tlopt.training.outcome import expect_tensorboard

if TYPE_CHECKING:
    from tlopt.images.pixels import Pixels

log = logging.getLogger(__name__)

_CALIBRATED = 256  # training images from which scales to be trained begin
_OPSET = 18  # of the graph that shows where to round; any that export knows has the same tensors
# All layers train in fp32, as the exported graph computes them, so these are no settings of this stage.
_TRAINING = Hyperparameters(precision="fp32")
_ABOUT_LABELS = ("loss", "smoothing", "focal_gamma", "teacher_weight")  # of no use without them
_LEFT_OUT = ("precision", "compile", "teacher_features", "soup", "folds")


def _expect_no_labels(images: Path | None, training: Hyperparameters, teacher: Path | None) -> None:
    """Refuse settings that are about labels where there are none.

    Raises:
        SettingError: One is given.
    """
    if images is None or not is_flat(images):
        return
    given = [name for name in _ABOUT_LABELS if getattr(training, name) != getattr(_TRAINING, name)]
    if teacher is not None:
        given.insert(0, "teacher")
    if given:
        raise SettingError(
            f"{images} has no class folders, so the network learns its own answers alone. "
            f"{given[0]} does not go with that.",
            hint=f"Leave out --{given[0].replace('_', '-')}, or leave out --images to train with labels.",
        )


@stage(reads="torch", writes="torch", shared=True)
@ruled(_expect_no_labels, expect_tensorboard)
def qat(
    source: Artifact,
    out: Draft,
    *,
    for_: Annotated[
        Runtime, Setting("Runtime that will run the int8 network.", group="Quantization", common=True)
    ] = "onnxruntime",
    reduce_range: Annotated[
        Literal["auto", "on", "off"],
        Setting(
            "Keep weights to half the int8 range. auto does so if integer sums saturate on this processor.",
            group="Quantization",
        ),
    ] = "auto",
    training: Annotated[Hyperparameters, Without(*_LEFT_OUT)] = _TRAINING,
    teacher: Annotated[
        Path | None, Setting("Artifact from whose answers the network also learns.", group="Distillation")
    ] = None,
    images: Annotated[
        Path | None,
        Setting(
            "Folder of the artifact's training images, if they were moved. Or any folder of images without class "
            "folders, to train without labels.",
            group="Data",
            common=True,
        ),
    ] = None,
    cache: Cache,
    resume: Annotated[bool, Setting("Continue an interrupted run from its checkpoint.", common=True)] = False,
    tensorboard: Annotated[bool, Setting("Write TensorBoard events into the artifact.", group="Output")] = False,
) -> Card:
    """Train a network for int8, with quantization in the loop.

    The network computes with the rounding that quantize will do, and learns the scales of that rounding.
    export and quantize take the scales over. The metrics are those of the rounded network.

    If --images has no class folders, its images need no labels. The rounded network then learns the answers that
    the network gave before. A fifth of the images is held out and judges how often the two agree.

    Raises:
        SettingError: A setting does not fit, or is about labels where there are none.
        ImagesError: The training images are gone or have changed.
        MissingLibraryError: ONNX Runtime is not installed.
        StageError: The network cannot be rounded, the loss explodes, or the disk is full.
        SystemExit: With code 0, in every process but the first, when training is over.
    """
    from tlopt import sources

    if teacher is not None:
        sources.check_artifact(teacher)  # a wrong one is told before images are decoded
    require("onnxruntime")
    reduced = reduced_range(for_, reduce_range)
    unlabelled = images is not None and is_flat(images)
    ref: ImagesRef | None
    if images is not None and unlabelled:
        ref, parts = source.card.images, _divided(images, source, training.seed)
        training, teacher = replace(training, teacher_weight=1.0), source.path
    else:
        ref, parts = trained_on(source, images)
    from tlopt.training import job
    from tlopt.training.resumption.checkpoint import Checkpoint

    network, pruning = of_artifact(source), job.of_pruning(source)
    scales: dict[str, tuple[float, int]] = {}
    run = job.Job(
        network=network,
        parts=parts,
        settings=training,
        method="full",
        cache=cache,
        sparse=pruning.sparse,
        teacher=teacher,
        runner=open_runner,
        without_labels=unlabelled,
        rounding=partial(_rounded, network, for_, reduced, training.seed, scales),
    )
    trained = run.run(Checkpoint(folder=out.checkpoints, resume=resume))
    if unlabelled:
        parts_read = {"train": len(parts["train"]), "held_out": len(parts["val"]), "digest": parts["train"].digest}
        trained[0].details["without_labels"] = parts_read
    details = replace(pruning, qat=TrainedScales(runtime=for_, reduce_range=reduced, scales=scales))
    return run.card(out.folder, trained, ref, details=details, tensorboard=tensorboard)


def _divided(images: Path, source: Artifact, seed: int) -> dict[Split, ImageFolder]:
    """Return the images of a folder without labels, most to train on and the others to judge by.

    Raises:
        ImagesError: There are none, or all have one content.
    """
    folder = every_image(images)
    folder = folder.labelled(folder.labels, source.card.classes)
    try:
        parts = folder.split(val=OTHERS.val, test=OTHERS.test, seed=seed)
    except SettingError as error:
        raise ImagesError(
            f"{images} has one image, copies aside. Without labels, one to train on and one to judge by are needed.",
            hint="Some hundreds are usual.",
        ) from error
    log.warning(
        "%s has no class folders: the network learns its own answers to its images (%d to train on, %d to judge by).",
        images, len(parts["train"]), len(parts["val"]),
    )  # fmt: skip
    return parts


@contextlib.contextmanager
def _rounded(
    network: Network, runtime: Runtime, reduced: bool, seed: int, scales: dict[str, tuple[float, int]], images: Pixels
) -> Iterator[None]:
    """Round a network where its exported graph will be, to scales calibrated on training images.

    Args:
        network: The network.
        runtime: That it will be quantized for.
        reduced: Whether its weights have half the int8 range.
        seed: Of the choice of images.
        scales: Filled with the trained scales at the end.
        images: The training images.
    """
    from tlopt.graphs.cleaning import clean
    from tlopt.graphs.view import View
    from tlopt.networks import tracing
    from tlopt.quantization.int8 import Scheme, calibrate
    from tlopt.quantization.qat.network import rounded
    from tlopt.quantization.qat.places import places_of

    proto, program = tracing.trace(network.module, network.preprocess.size, _OPSET)
    chosen = np.random.default_rng(seed).permutation(len(images.folder))[:_CALIBRATED]
    crops = batches(images.folder.select(chosen), network.preprocess, batch=8, label="Calibrating")
    # The scales will be the trained ones, which nothing binds.
    scheme = Scheme(runtime=runtime, reduced=reduced, integer_hard_sigmoids=False)
    places = places_of(calibrate(View(clean(proto)), scheme, (part.inputs for part in crops)))
    # The runtime and the range are part of the name, so that a checkpoint is resumed for the same one only.
    name = f"scales_for_{runtime}{'_reduced' * reduced}"
    with rounded(network.module, program, places, name) as steps:
        yield
        scales.update(steps.scales())
