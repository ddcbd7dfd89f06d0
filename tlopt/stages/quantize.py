"""From a float ONNX graph to one in int8, fp8, fp16 or bf16, calibrated on real images."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from tlopt import judging
from tlopt.artifact import Artifact
from tlopt.backends import Runner, fixed_batch, open_runner, overflows, reduced_range
from tlopt.backends._logits import check_logits
from tlopt.card import Card
from tlopt.details import BesideSource, Measured, Quantized, Sensitivity
from tlopt.errors import (
    ArtifactError,
    CheckError,
    ImagesError,
    MissingLibraryError,
    NotFiniteError,
    SettingError,
    StageError,
)
from tlopt.images import ImageFolder, batches
from tlopt.images.of_artifact import parts_of
from tlopt.publishing import Draft
from tlopt.registry import load, require
from tlopt.settings import Setting
from tlopt.stages import stage
from tlopt.timing import medians_ms

if TYPE_CHECKING:
    import onnx

    from tlopt.graphs.view import View
    from tlopt.quantization.int8 import Calibrated
    from tlopt.quantization.search.blocks import Block

log = logging.getLogger(__name__)

FILE = "model.onnx"
_ROUNDING_IMAGES = 128  # rounding weights needs fewer images than finding ranges
_JUDGED = 512  # held-out images that the result is judged by
_TIMED = (1, 32)  # batches that both are timed at
_TIMED_SECONDS = 1.5
_TURNS = 4  # of each in that time
_SEARCHED = 512  # training images, not calibrated on, that blocks to leave float are chosen by
_TRIAL_SECONDS = 0.4
_MARGIN = 1.03  # what a latency may be above the other's and still count as the same


@stage(reads="onnx", writes="onnx")
def quantize(
    source: Artifact,
    out: Draft,
    *,
    precision: Annotated[
        Literal["int8", "fp16", "bf16", "fp8"], Setting("Number format in which the graph computes.")
    ] = "int8",
    for_: Annotated[
        Literal["onnxruntime", "openvino", "tensorrt"], Setting("Runtime that will run the result.")
    ] = "onnxruntime",
    quantizer: Annotated[str, Setting("Method that chooses the ranges of activations.", plugins="quantizers")] = "mse",
    rounding: Annotated[
        Literal["gptq", "nearest"],
        Setting(
            "How weights become integers. gptq keeps the layer's output error small. nearest rounds each weight alone."
        ),
    ] = "gptq",
    bias_correction: Annotated[bool, Setting("Correct the biases for the mean error of each layer.")] = True,
    equalization: Annotated[bool, Setting("First scale the channels of neighboring layers to similar ranges.")] = False,
    reduce_range: Annotated[
        Literal["auto", "on", "off"],
        Setting("Keep weights to half the int8 range. auto does so if integer sums saturate on this processor."),
    ] = "auto",
    max_drop: Annotated[
        float | None,
        Setting("Largest loss of accuracy. As few blocks as possible stay float to keep it.", minimum=0, maximum=1),
    ] = None,
    float_blocks: Annotated[
        tuple[str, ...],
        Setting(
            "Names of blocks that stay float. tlopt show prints the names. first stands for the first block.",
            metavar="NAME,…",
        ),
    ] = (),
    images: Annotated[Path | None, Setting("Folder of images for calibration. Default: the training images.")] = None,
    samples: Annotated[int, Setting("Number of images for calibration.", minimum=1)] = 256,
    batch: Annotated[
        int, Setting("Images per run, if the graph takes any number of images.", minimum=1, maximum=256)
    ] = 8,
    seed: Annotated[int, Setting("Seed of the choice of images.", minimum=0)] = 0,
    require_faster: Annotated[bool, Setting("Fail if the result is slower than its source.")] = False,
) -> Card:
    """Quantize an ONNX artifact, or cast it to half precision.

    Ranges and rounding are chosen from training images. The input and output of the graph stay as
    they are. An artifact from qat keeps the ranges that it was trained with.

    At the end the result is measured beside its source, on validation images and on the runtime
    that it was made for. A result for TensorRT is judged with ONNX Runtime and is not timed.

    With --max-drop, blocks that cost too much accuracy stay float. They are chosen by their effect
    on answers and latency, on training images that calibration did not see. Blocks named with
    --float-blocks stay float at any precision.

    Integer sums saturate on processors without VNNI if weights take the whole int8 range. See
    --reduce-range.

    Raises:
        ArtifactError: The source is quantized already, or its graph cannot be quantized.
        SettingError: A setting does not fit the precision, or what the network was trained for, or
            there is no block of a name.
        ImagesError: There are no images to calibrate on.
        CheckError: The result is slower than its source, and `require_faster` is set.
    """
    _check(source, precision, for_, max_drop, equalization, reduce_range)
    trained = _trained(source, for_, equalization, reduce_range) if precision == "int8" else None
    whole = reduce_range == "off" or (trained is not None and not trained.reduced)
    if max_drop is not None and whole and reduced_range(for_, "auto"):
        raise SettingError(
            f"max_drop chooses by answers measured here, where the integer kernels of {for_} saturate.",
            hint="Leave --reduce-range out, or quantize on the processor that it will run on.",
        )
    parts = parts_of(source, images, labels="none", draw=True, seed=seed)
    chosen, unseen = _divided(parts.train, samples, max_drop, seed)
    require("onnxruntime")
    import onnx

    from tlopt.graphs.cleaning import clean
    from tlopt.graphs.folding import fold
    from tlopt.graphs.loading import load_graph
    from tlopt.graphs.precision import opset_of, precision_of
    from tlopt.graphs.view import View
    from tlopt.quantization.int8 import Scheme, calibrate

    graph = load_graph(source.payload(".onnx"))
    _refuse_quantized(source, precision_of(graph))  # a card of an older version says fp32 of every import
    graph = clean(graph)
    # A network that was trained with its scales was rounded as the exporter wrote it.
    view = View(graph if trained else fold(graph))
    blocks = _asked(view, float_blocks)
    floats = [node for block in blocks for node in block.nodes]
    fixed = fixed_batch(source)

    def inputs(label: str = "", images: int = samples) -> Iterator[np.ndarray]:
        some = chosen.select(range(min(images, len(chosen))))
        for found in batches(some, source.card.preprocess, batch=fixed or batch, label=label):
            # A graph of a fixed batch takes no fewer: the last one goes on with its first images again.
            yield np.resize(found.inputs, (fixed, *found.inputs.shape[1:])) if fixed else found.inputs

    quantized = Quantized(
        runtime=for_,
        calibration_images=0 if trained else len(chosen),
        float_blocks=tuple(block.name for block in blocks),
    )
    if precision == "int8" or precision == "fp8":  # spelled out for the type checker
        if equalization:
            view = require("tlopt.quantization.equalization").equalize(view, inputs("Equalizing", _ROUNDING_IMAGES))
        scheme = Scheme(
            runtime=for_,
            float8=precision == "fp8",
            reduced=trained.reduced if trained else precision == "int8" and reduced_range(for_, reduce_range),
            choose=load("quantizers", quantizer).choose,
            trained=trained.scales if trained else None,
        )
        calibrated = calibrate(view, scheme, inputs("Calibrating"), floats=floats).rounded(
            lambda: inputs(images=_ROUNDING_IMAGES), rounding=rounding, bias_correction=bias_correction, seed=seed
        )
        quantized = replace(quantized, reduce_range=scheme.reduced, quantizer="trained" if trained else quantizer)
        if max_drop is None:
            result = calibrated.graph()
        else:
            result, sensitivity = _within(source, calibrated, unseen, quantized, max_drop)
            quantized = replace(quantized, sensitivity=sensitivity)
    else:
        result, float_nodes = _half(view, precision, inputs("Calibrating"), floats)
        quantized = replace(quantized, float_nodes=tuple(float_nodes))
    onnx.checker.check_model(result, full_check=True)
    onnx.save(result, out / FILE)
    card = replace(
        source.card, precision=precision, details=replace(source.card.onnx, opset=opset_of(result), quantized=quantized)
    )
    made = Artifact(path=out.folder, card=replace(card, files={FILE: ""}))
    measured = _measure(source, made, parts.held_out, for_)
    if slower := measured.slower_at_batch:
        message = (
            f"{precision} is slower than {source.path} at batch {slower[0]}: {_milliseconds(measured, slower[0])}."
        )
        if require_faster:
            raise CheckError(message, hint="Keep the source, or quantize for another runtime with --for.")
        log.warning("%s", message)
    elif require_faster and measured.latency_ms is None:
        raise CheckError(
            f"Whether {precision} is faster could not be measured: {measured.not_timed}.",
            hint="Leave --require-faster out, and time the result with tlopt bench where it will run.",
        )
    return replace(card, details=replace(card.onnx, quantized=replace(quantized, measured=measured)))


def _check(
    source: Artifact, precision: str, runtime: str, max_drop: float | None, equalization: bool, reduce_range: str
) -> None:
    """Refuse what does not go together.

    Raises:
        ArtifactError: The source is quantized already.
        SettingError: A setting does not fit the precision.
    """
    _refuse_quantized(source, source.card.precision)
    if precision == "fp8" and runtime != "tensorrt":
        raise SettingError(
            f"{runtime} has no fp8 kernels; TensorRT has, on GPUs of SM 8.9 and later.", hint="Add --for tensorrt."
        )
    if max_drop is not None and precision != "int8":
        raise SettingError(f"max_drop is for int8, got precision {precision}.", hint="Leave --max-drop out.")
    if reduce_range != "auto" and precision != "int8":
        raise SettingError(f"reduce_range is for int8, got precision {precision}.", hint="Leave --reduce-range out.")
    if equalization and precision not in ("int8", "fp8"):
        raise SettingError(
            f"equalization is for int8 and fp8, got precision {precision}.", hint="Leave --equalization out."
        )


def _refuse_quantized(source: Artifact, precision: str) -> None:
    if precision != "fp32":
        raise ArtifactError(
            f"{source.path} is in {precision} already; quantize takes an fp32 artifact.",
            hint="Quantize the fp32 artifact that it was made from; tlopt export makes one.",
        )


def _asked(view: View, names: Sequence[str]) -> list[Block]:
    """Return the blocks of these names, in the graph's order; `first` is the first whatever its name.

    Raises:
        SettingError: There is none of a name.
    """
    from tlopt.quantization.search.blocks import blocks_of

    if not names:
        return []
    found = blocks_of(view)
    wanted = {found[0].name if name == "first" else name for name in names}
    if unknown := sorted(wanted - {block.name for block in found}):
        known = ", ".join(block.name for block in found)
        raise SettingError(f"The graph has no block {unknown[0]!r}.", hint=f"Its blocks: {known}.")
    return [block for block in found if block.name in wanted]


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What a network was trained with: tensor -> scale and zero point, and whether weights have half the range."""

    scales: Mapping[str, tuple[float, int]]
    reduced: bool


def _trained(source: Artifact, runtime: str, equalization: bool, reduce_range: str) -> _Trained | None:
    """Return the scales that the network was trained with, None if it was trained in float.

    Raises:
        SettingError: They are for another runtime or range, or weights are to be changed.
    """
    found = source.card.onnx.qat
    if found is None:
        return None
    if found.runtime != runtime:
        raise SettingError(
            f"{source.path} was trained to be quantized for {found.runtime}, not for {runtime}.",
            hint=f"Add --for {found.runtime}, or train with tlopt qat --for {runtime}.",
        )
    if equalization:
        raise SettingError(
            f"{source.path} was trained with the scales of its weights as they are.", hint="Leave --equalization out."
        )
    reduced = found.reduce_range
    if reduce_range not in ("auto", "on" if reduced else "off"):
        raise SettingError(
            f"{source.path} was trained with weights of {'half' if reduced else 'all'} the int8 range.",
            hint=f"Leave --reduce-range out, or train with tlopt qat --reduce-range {reduce_range}.",
        )
    return _Trained(scales=found.scales, reduced=reduced)


def _within(
    source: Artifact,
    calibrated: Calibrated,
    unseen: ImageFolder,
    about: Quantized,
    max_drop: float,
) -> tuple[onnx.ModelProto, Sensitivity]:
    """Leave the fewest blocks float that keep the loss of accuracy within a limit, and say which and why.

    Args:
        source: The float artifact.
        calibrated: Its graph.
        unseen: Images to choose by.
        about: The result's card will say so, the runtime among it.
        max_drop: Largest loss.
    """
    from tlopt.quantization.search.blocks import blocks_of
    from tlopt.quantization.search.sensitivity import search
    from tlopt.quantization.search.trials import Trials

    if len(unseen) * max_drop < 1:
        log.warning("%d training images not calibrated on cannot show a drop of %g", len(unseen), max_drop)
    asked = about.float_blocks
    nodes = {block.name: block.nodes for block in blocks_of(calibrated.view) if block.name not in asked}

    def without(floats: Collection[str]) -> onnx.ModelProto:
        return calibrated.graph([node for name in floats for node in nodes[name]])

    raw = replace(source.card.preprocess, folded=True)
    seen = list(batches(unseen, raw, batch=_TIMED[-1], label="Reading images"))
    labels = np.concatenate([part.labels for part in seen]) if unseen.classes == source.card.classes else None
    runtime = about.runtime
    backend = _backend(runtime)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def opened(graph: onnx.ModelProto) -> Runner:
            file = Path(tempfile.mkdtemp(dir=folder)) / FILE
            file.write_bytes(graph.SerializeToString())
            details = replace(source.card.onnx, quantized=about)
            card = replace(source.card, precision="int8", files={FILE: ""}, details=details)
            return open_runner(Artifact(path=file.parent, card=card), backend)

        trials = Trials(
            float_=stack.enter_context(open_runner(source, backend)),
            opened=lambda floats: opened(without(floats)),
            inputs=lambda: (source.card.preprocess.normalize(part.inputs) for part in seen),
            labels=labels,
            times=None if runtime == "tensorrt" else partial(_times, seconds=_TRIAL_SECONDS),
        )
        found = search(list(nodes), stack.enter_context(trials).measure, max_drop, trials.source_ms)
    kept = ", ".join(found.chosen.floats) or "no block"
    if found.met:
        log.info("%s left float: drop %.4f, %.1f dB", kept, found.chosen.drop, found.chosen.snr_db)
    else:
        log.warning(
            "no set of blocks that is faster than float keeps the drop within %g; best found: %s left float, drop %.4f",
            max_drop, kept, found.chosen.drop,
        )  # fmt: skip
    float_blocks, trade_off, alone = found.account()
    return without(found.chosen.floats), Sensitivity(
        max_drop=max_drop,
        met=found.met,
        drop_of="agreement" if labels is None else "accuracy",
        images=sum(len(part.labels) for part in seen),
        float_blocks=float_blocks,
        trade_off=trade_off,
        blocks=alone,
    )


def _half(
    view: View, half: Literal["fp16", "bf16"], inputs: Iterator[np.ndarray], asked: Collection[str]
) -> tuple[onnx.ModelProto, list[str]]:
    from tlopt.quantization.calibration.activations import observe
    from tlopt.quantization.casts import cast, overflowing

    floats = [name for node in view.nodes for name in node.output if view.is_float(name)]
    keep = overflowing(view, observe(view, floats, inputs), half)
    if keep:
        log.warning("%d of %d nodes stay fp32: their values exceed %s", len(keep), len(view.nodes), half)
    return cast(view, half, keep={*keep, *asked}), keep


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


def _divided(train: ImageFolder, samples: int, max_drop: float | None, seed: int) -> tuple[ImageFolder, ImageFolder]:
    """Return the images to calibrate on, and those to choose blocks by if there is a limit to the drop.

    Raises:
        ImagesError: There are too few for both.
    """
    if max_drop is None:
        return _stratified(train, samples, seed), train.select(range(0))
    unseen = min(_SEARCHED, max(len(train) - samples, len(train) // 3))
    if not unseen:
        raise ImagesError(
            f"{len(train)} training images are too few for max_drop: a third of them must not be calibrated on.",
            hint="Name a larger folder with --images, or leave --max-drop out.",
        )
    chosen = _stratified(train, min(samples, len(train) - unseen), seed)
    rest = np.flatnonzero(~np.isin(train.files, chosen.files))
    return chosen, _stratified(train.select(rest), unseen, seed)


def _backend(runtime: str) -> str:
    """Return what runs a graph here that was made for a runtime."""
    return "openvino" if runtime == "openvino" else "onnxruntime"


def _measure(source: Artifact, made: Artifact, judged: ImageFolder, runtime: str) -> Measured:
    """Compare the result with its source: labels on held-out images, and latency."""
    backend = _backend(runtime)
    measured = Measured(backend=backend)
    some = _stratified(judged, _JUDGED, 0)
    try:
        with open_runner(source, backend) as before, open_runner(made, backend) as after:
            answers: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
            for found in batches(some, source.card.preprocess, batch=32, label="Judging"):
                reference = check_logits(before(found.inputs), source, backend).argmax(1)
                labels = check_logits(after(found.inputs), made, backend).argmax(1)
                answers.append((reference, labels, found.labels))
            reference, labels, truth = (np.concatenate(column) for column in zip(*answers, strict=True))
            accuracy = BesideSource(
                source=round(judging.agreement(reference, truth), 4), result=round(judging.agreement(labels, truth), 4)
            )
            measured = replace(
                measured,
                images=len(truth),
                agreement=round(judging.agreement(reference, labels), 4),
                saturated=overflows(made, backend),
                accuracy=accuracy if judged.classes == source.card.classes else None,
            )
            if runtime == "tensorrt":
                return replace(measured, not_timed="TensorRT runs it only as an engine")
            latency_ms, slower = _latencies(before, after, found.inputs)
            return replace(measured, latency_ms=latency_ms, slower_at_batch=slower)
    except NotFiniteError:
        raise
    except (StageError, MissingLibraryError) as error:
        # ONNX Runtime's processor kernels know no bfloat16, for one: the file may serve elsewhere.
        log.warning("not measured: %s", error.message)
        return replace(measured, not_timed=f"{backend} cannot run it here: {error.message}")


def _latencies(before: Runner, after: Runner, images: np.ndarray) -> tuple[dict[str, BesideSource], tuple[int, ...]]:
    """Return batch -> latencies, milliseconds, and the batches at which the second is slower."""
    found = _times(before, after, images, _TIMED_SECONDS)
    latency = {
        str(size): BesideSource(source=round(own, 3), result=round(made, 3)) for size, (own, made) in found.items()
    }
    return latency, tuple(size for size, (own, made) in found.items() if made > _MARGIN * own)


def _times(before: Runner, after: Runner, images: np.ndarray, seconds: float) -> dict[int, tuple[float, float]]:
    """Time both in turns, `seconds` together: batch -> medians, milliseconds."""
    found = {}
    for size in _TIMED:
        inputs = np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])))
        calls = [partial(runner, inputs) for runner in (before, after)]
        own, made = medians_ms(calls, seconds=seconds / 2, turns=_TURNS, warm_s=seconds / 4)
        found[size] = (own, made)
    return found


def _milliseconds(measured: Measured, size: int) -> str:
    found = (measured.latency_ms or {})[str(size)]
    return f"{found.result:.2f} ms against {found.source:.2f} ms"
