"""From a float ONNX graph to one in int8, fp8, fp16 or bf16, calibrated on real images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from tlopt.artifact import Artifact, Card
from tlopt.backends import Runner, open_runner
from tlopt.errors import ArtifactError, CheckError, ImagesError, MissingLibraryError, SettingError, StageError
from tlopt.images import ImageFolder, batches, reopen, scan
from tlopt.registry import load, require
from tlopt.settings import Setting
from tlopt.stages import stage

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

FILE = "model.onnx"
_ROUNDING_IMAGES = 128  # rounding weights needs fewer images than finding ranges
_JUDGED = 512  # held-out images that the result is judged by
_TIMED = (1, 32)  # batches that both are timed at
_TIMED_SECONDS = 1.5
_MARGIN = 1.03  # what a latency may be above the other's and still count as the same


@stage(reads="onnx", writes="onnx")
def quantize(
    source: Artifact,
    out: Path,
    *,
    precision: Annotated[Literal["int8", "fp16", "bf16", "fp8"], Setting("Numbers the graph computes in.")] = "int8",
    for_: Annotated[
        Literal["onnxruntime", "openvino", "tensorrt"], Setting("Runtime whose fused integer operators to aim at.")
    ] = "onnxruntime",
    quantizer: Annotated[
        str, Setting("How ranges of activations are chosen from the images.", plugins="quantizers")
    ] = "mse",
    rounding: Annotated[
        Literal["gptq", "nearest"], Setting("How weights become integers: by the layer's output error, or each alone.")
    ] = "gptq",
    bias_correction: Annotated[bool, Setting("Let biases make up for mean errors.")] = True,
    equalization: Annotated[bool, Setting("Scale channels to like ranges first, where that changes nothing.")] = False,
    images: Annotated[Path | None, Setting("Images to calibrate on, if not the training images.")] = None,
    samples: Annotated[int, Setting("Images to calibrate on.", minimum=1)] = 256,
    batch: Annotated[int, Setting("Images run at once.", minimum=1, maximum=256)] = 8,
    seed: Annotated[int, Setting("Seed of the choice of images.", minimum=0)] = 0,
    require_faster: Annotated[bool, Setting("Fail if the result is slower than its source.")] = False,
) -> Card:
    """Quantize an ONNX artifact to int8 or fp8, or cast it to fp16 or bf16.

    Scales and roundings are chosen from training images alone. The graph's input and output stay
    as they are. At the end the result is measured beside its source, on images of the validation
    part and on the runtime that it was made for; the card keeps what was found. A result for
    TensorRT is judged with ONNX Runtime and not timed.

    Raises:
        ArtifactError: The source is quantized already, or its graph cannot be quantized.
        SettingError: The runtime does not know the precision.
        ImagesError: There are no images to calibrate on.
        CheckError: The result is slower than its source, and `require_faster` is set.
    """
    if source.card.precision != "fp32":
        raise ArtifactError(
            f"{source.path} is in {source.card.precision} already; quantize takes an fp32 artifact.",
            hint="Quantize the artifact that tlopt export made.",
        )
    if precision == "fp8" and for_ != "tensorrt":
        raise SettingError(
            f"{for_} has no fp8 kernels; TensorRT has, on GPUs of SM 8.9 and later.", hint="Add --for tensorrt."
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
    if precision == "int8" or precision == "fp8":  # spelled out for the type checker
        if equalization:
            model = require("tlopt.graph.equalization").equalize(model, inputs("Equalizing", _ROUNDING_IMAGES))
        recipe = _Recipe(
            for_, load("quantizers", quantizer).choose, rounding, bias_correction, seed, precision == "fp8"
        )
        result = _eight_bits(model, recipe, inputs)
        notes = {"quantizer": quantizer}
    else:
        result, notes = _half(model, precision, inputs("Calibrating"))
    onnx.checker.check_model(result, full_check=True)
    onnx.save(result, out / FILE)
    card = replace(source.card, precision=precision, details={**source.card.details, **details, **notes})
    made = Artifact(path=out, card=replace(card, files={FILE: ""}))
    measured = _measure(source, made, parts["val"] if len(parts["val"]) else parts["train"], for_)
    if slower := measured.get("slower_at_batch"):
        message = (
            f"{precision} is slower than {source.path} at batch {slower[0]}: {_milliseconds(measured, slower[0])}."
        )
        if require_faster:
            raise CheckError(message, hint="Keep the source, or quantize for another runtime with --for.")
        log.warning("%s", message)
    elif require_faster and "latency_ms" not in measured:
        raise CheckError(
            f"Whether {precision} is faster could not be measured: {measured['not_timed']}.",
            hint="Leave --require-faster out, and time the result with tlopt bench where it will run.",
        )
    return replace(card, details={**card.details, "measured": measured})


@dataclass(frozen=True)
class _Recipe:
    """How to go to 8 bits; weights in fp8 are rounded to nearest."""

    runtime: Literal["onnxruntime", "openvino", "tensorrt"]
    choose: Callable[[Any, Any], tuple[float, float]]
    rounding: Literal["gptq", "nearest"]
    bias_correction: bool
    seed: int
    float8: bool


def _eight_bits(
    model: onnx.ModelProto, recipe: _Recipe, inputs: Callable[..., Iterator[np.ndarray]]
) -> onnx.ModelProto:
    from tlopt.graph.calibration import observe
    from tlopt.graph.placement import place
    from tlopt.graph.qdq import insert
    from tlopt.graph.rounding import round_weights
    from tlopt.graph.scales import fit_scales

    placement = place(model, recipe.runtime, float8=recipe.float8)
    if not placement.weights:
        raise ArtifactError("The graph has no convolution or matrix product with constant weights to quantize.")
    scales = fit_scales(placement, observe(model, placement.edges, inputs("Calibrating")), recipe.choose)
    weights = None
    if not recipe.float8 and (recipe.rounding == "gptq" or recipe.bias_correction):
        weights = round_weights(
            model,
            placement,
            scales,
            lambda: inputs(images=_ROUNDING_IMAGES),
            seed=recipe.seed,
            nearest=recipe.rounding == "nearest",
            bias_correction=recipe.bias_correction,
        )
    log.info("%d weights and %d activations in 8 bits", len(placement.weights), len(placement.edges))
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


def _measure(source: Artifact, made: Artifact, judged: ImageFolder, runtime: str) -> dict[str, Any]:
    """Compare the result with its source: labels on held-out images, and latency."""
    backend = "openvino" if runtime == "openvino" else "onnxruntime"
    measured: dict[str, Any] = {"backend": backend}
    some = _stratified(judged, _JUDGED, 0)
    try:
        with open_runner(source, backend) as before, open_runner(made, backend) as after:
            agree, right_before, right_after, total = 0, 0, 0, 0
            for found in batches(some, source.card.preprocess, batch=32, label="Judging"):
                reference, labels = before(found.inputs).argmax(1), after(found.inputs).argmax(1)
                agree += int((reference == labels).sum())
                right_before += int((reference == found.labels).sum())
                right_after += int((labels == found.labels).sum())
                total += len(labels)
            measured |= {"images": total, "agreement": round(agree / total, 4)}
            if judged.classes == source.card.classes:
                measured["accuracy"] = {
                    "source": round(right_before / total, 4),
                    "result": round(right_after / total, 4),
                }
            if runtime == "tensorrt":
                measured["not_timed"] = "TensorRT runs it only as an engine"
            else:
                measured |= _latencies(before, after, found.inputs)
    except (StageError, MissingLibraryError) as error:
        # ONNX Runtime's processor kernels know no bfloat16, for one: the file may serve elsewhere.
        measured["not_timed"] = f"{backend} cannot run it here: {error.message}"
        log.warning("not measured: %s", error.message)
    return measured


def _latencies(before: Runner, after: Runner, images: np.ndarray) -> dict[str, Any]:
    """Time both in turn, so that what disturbs one disturbs the other: medians, milliseconds."""
    latency: dict[str, dict[str, float]] = {}
    slower = []
    for size in _TIMED:
        inputs = np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])))
        runs: dict[str, list[float]] = {"source": [], "result": []}
        for runner in (before, after):
            runner(inputs)
        deadline = time.perf_counter() + _TIMED_SECONDS
        while time.perf_counter() < deadline or len(runs["source"]) < 5:
            for name, runner in (("source", before), ("result", after)):
                started = time.perf_counter()
                runner(inputs)
                runs[name].append(1e3 * (time.perf_counter() - started))
        latency[str(size)] = {name: round(float(np.median(values)), 3) for name, values in runs.items()}
        if latency[str(size)]["result"] > _MARGIN * latency[str(size)]["source"]:
            slower.append(size)
    return {"latency_ms": latency, "slower_at_batch": slower}


def _milliseconds(measured: dict[str, Any], size: int) -> str:
    found = measured["latency_ms"][str(size)]
    return f"{found['result']:.2f} ms against {found['source']:.2f} ms"
