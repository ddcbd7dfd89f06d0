"""From a float ONNX graph to one in int8, fp16 or bf16, calibrated on real images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from tlopt.artifact import Artifact, Card
from tlopt.errors import ArtifactError, ImagesError
from tlopt.images import ImageFolder, batches, reopen, scan
from tlopt.registry import load, require
from tlopt.settings import Setting
from tlopt.stages import stage

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

FILE = "model.onnx"
_ROUNDING_IMAGES = 128  # rounding weights needs fewer images than finding ranges


@stage(reads="onnx", writes="onnx")
def quantize(
    source: Artifact,
    out: Path,
    *,
    precision: Annotated[Literal["int8", "fp16", "bf16"], Setting("Numbers the graph computes in.")] = "int8",
    for_: Annotated[
        Literal["onnxruntime", "openvino", "tensorrt"], Setting("Runtime whose fused integer operators to aim at.")
    ] = "onnxruntime",
    quantizer: Annotated[
        str, Setting("How ranges of activations are chosen from the images.", plugins="quantizers")
    ] = "mse",
    rounding: Annotated[
        Literal["gptq", "nearest"], Setting("How weights become integers: by the layer's output error, or each alone.")
    ] = "gptq",
    bias_correction: Annotated[bool, Setting("Let biases make up for the mean error of the weights.")] = True,
    images: Annotated[Path | None, Setting("Images to calibrate on, if not the training images.")] = None,
    samples: Annotated[int, Setting("Images to calibrate on.", minimum=1)] = 256,
    batch: Annotated[int, Setting("Images run at once.", minimum=1, maximum=256)] = 8,
    seed: Annotated[int, Setting("Seed of the choice of images.", minimum=0)] = 0,
) -> Card:
    """Quantize an ONNX artifact to int8, or cast it to fp16 or bf16.

    Scales and roundings are chosen from training images alone. The graph's input and output stay
    as they are.

    Raises:
        ArtifactError: The source is quantized already, or its graph cannot be quantized.
        ImagesError: There are no images to calibrate on.
    """
    if source.card.precision != "fp32":
        raise ArtifactError(
            f"{source.path} is in {source.card.precision} already; quantize takes an fp32 artifact.",
            hint="Quantize the artifact that tlopt export made.",
        )
    parts = _open_images(source, images, seed)
    chosen = _stratified(parts["train"], samples, seed)
    require("onnxruntime")
    import onnx

    from tlopt.graph.cleaning import clean

    model = clean(onnx.load(source.payload(".onnx")))

    def inputs(label: str = "", images: int = samples) -> Iterator[np.ndarray]:
        some = chosen.select(range(min(images, len(chosen))))
        for found in batches(some, source.card.preprocess, batch=batch, label=label):
            yield found.inputs

    details: dict[str, Any] = {"runtime": for_, "calibration_images": len(chosen)}
    if precision == "int8":
        recipe = _Recipe(for_, load("quantizers", quantizer).choose, rounding, bias_correction, seed)
        result = _int8(model, recipe, inputs)
        notes = {"quantizer": quantizer}
    else:
        result, notes = _half(model, precision, inputs("Calibrating"))
    onnx.checker.check_model(result, full_check=True)
    onnx.save(result, out / FILE)
    return replace(source.card, precision=precision, details={**source.card.details, **details, **notes})


@dataclass(frozen=True)
class _Recipe:
    """How to go to int8."""

    runtime: Literal["onnxruntime", "openvino", "tensorrt"]
    choose: Callable[[Any, Any], tuple[float, float]]
    rounding: Literal["gptq", "nearest"]
    bias_correction: bool
    seed: int


def _int8(model: onnx.ModelProto, recipe: _Recipe, inputs: Callable[..., Iterator[np.ndarray]]) -> onnx.ModelProto:
    from tlopt.graph.calibration import observe
    from tlopt.graph.placement import place
    from tlopt.graph.qdq import insert
    from tlopt.graph.rounding import round_weights
    from tlopt.graph.scales import fit_scales

    placement = place(model, recipe.runtime)
    if not placement.weights:
        raise ArtifactError("The graph has no convolution or matrix product with constant weights to quantize.")
    scales = fit_scales(placement, observe(model, placement.edges, inputs("Calibrating")), recipe.choose)
    weights = None
    if recipe.rounding == "gptq" or recipe.bias_correction:
        weights = round_weights(
            model,
            placement,
            scales,
            lambda: inputs(images=_ROUNDING_IMAGES),
            seed=recipe.seed,
            nearest=recipe.rounding == "nearest",
            bias_correction=recipe.bias_correction,
        )
    log.info("%d weights and %d activations in int8", len(placement.weights), len(placement.edges))
    return insert(model, placement, scales, weights)


def _half(
    model: onnx.ModelProto, half: Literal["fp16", "bf16"], inputs: Iterator[np.ndarray]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    from tlopt.graph.calibration import observe
    from tlopt.graph.casts import cast, overflowing
    from tlopt.graph.view import View

    view = View(model)
    floats = [name for node in view.nodes for name in node.output if view.is_float(name)]
    keep = overflowing(model, observe(model, floats, inputs), half)
    if keep:
        log.warning("%d of %d nodes stay fp32: their values exceed %s", len(keep), len(view.nodes), half)
    return cast(model, half, keep=keep), {"float_nodes": keep}


def _open_images(source: Artifact, images: Path | None, seed: int) -> dict[Any, ImageFolder]:
    """Return the train part, to calibrate on, and the val part, to judge by."""
    ref = source.card.images
    if images is not None:
        folder = scan(images)
        if ref is not None and folder.digest == ref.digest:
            return reopen(ref, images)
        return folder.split(val=0.2, test=0.0, seed=seed)
    if ref is None:
        raise ImagesError(
            f"{source.path} has no training images; quantize calibrates on images.",
            hint="Name a folder of class folders with --images.",
        )
    return reopen(ref)


def _stratified(folder: ImageFolder, samples: int, seed: int) -> ImageFolder:
    """Return `samples` images, each class with its share of them, in a random order."""
    random = np.random.default_rng(seed)
    # A class's i-th of n images stands at (i + a random part of one) / n: the first so many of all
    # images in that order hold each class in proportion.
    place = np.empty(len(folder))
    for label in np.unique(folder.labels):
        members = random.permutation(np.flatnonzero(folder.labels == label))
        place[members] = (np.arange(len(members)) + random.random()) / len(members)
    return folder.select(random.permutation(np.argsort(place, kind="stable")[:samples]))
