"""The stage qat: quantization-aware training of a fine-tuned network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends import open_runner, reduced_range
from tlopt.cards.card import Card
from tlopt.cards.details import Runtime, TrainedScales
from tlopt.images import batches
from tlopt.images.cache import Cache
from tlopt.images.of_artifact import trained_on
from tlopt.publishing import Draft
from tlopt.registry import require
from tlopt.settings import Setting, Without
from tlopt.stages import stage
from tlopt.training.hyperparameters import Hyperparameters
from tlopt.training.network import Network, of_artifact

if TYPE_CHECKING:
    from tlopt.images.pixels import Pixels

_CALIBRATED = 256  # training images from which scales to be trained begin
_OPSET = 18  # of the graph that shows where to round; any that export knows has the same tensors
# All layers train in fp32, as the exported graph computes them, so these are no settings of this stage.
_TRAINING = Hyperparameters(precision="fp32")
_LEFT_OUT = ("precision", "compile", "teacher_features", "soup", "folds")


@stage(reads="torch", writes="torch", shared=True)
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
        Path | None, Setting("Folder of the artifact's training images, if they were moved.", group="Data")
    ] = None,
    cache: Cache,
    resume: Annotated[bool, Setting("Continue an interrupted run from its checkpoint.", common=True)] = False,
    tensorboard: Annotated[bool, Setting("Write TensorBoard events into the artifact.", group="Output")] = False,
) -> Card:
    """Train a network for int8, with quantization in the loop.

    The network computes with the rounding that quantize will do, and learns the scales of that rounding.
    export and quantize take the scales over. The metrics are those of the rounded network.

    Raises:
        SettingError: A setting does not fit.
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
        rounding=partial(_rounded, network, for_, reduced, training.seed, scales),
    )
    trained = run.run(Checkpoint(folder=out.checkpoints, resume=resume))
    details = replace(pruning, qat=TrainedScales(runtime=for_, reduce_range=reduced, scales=scales))
    return run.card(out.folder, trained, ref, details=details, tensorboard=tensorboard)


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
    scheme = Scheme(runtime=runtime, reduced=reduced)
    places = places_of(calibrate(View(clean(proto)), scheme, (part.inputs for part in crops)))
    # The runtime and the range are part of the name, so that a checkpoint is resumed for the same one only.
    name = f"scales_for_{runtime}{'_reduced' * reduced}"
    with rounded(network.module, program, places, name) as steps:
        yield
        scales.update(steps.scales())
