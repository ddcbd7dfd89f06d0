"""The stage quantize: from a float ONNX graph to one in int8, fp8, fp16 or bf16, calibrated on real images."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tlopt import verdict
from tlopt.artifact import Artifact
from tlopt.backends import fixed_batch, open_call, open_runner, reduced_range
from tlopt.cards.card import Card
from tlopt.cards.details import Quantized, Runtime, TrainedScales
from tlopt.errors import MissingLibraryError, SettingError
from tlopt.images import ImageFolder
from tlopt.images.of_artifact import parts_of
from tlopt.process import temporary
from tlopt.publishing import Draft
from tlopt.quantization.calibration.images import ROUNDING, SEARCHED, Feed, divided, stratified
from tlopt.quantization.options import (
    CalibrationImages,
    EightBits,
    Precision,
    check_precision,
    limit_of,
    refuse,
    trained_scales,
)
from tlopt.registry import require
from tlopt.settings import Setting, ruled
from tlopt.stages import stage

if TYPE_CHECKING:
    import onnx

    from tlopt.quantization.int8 import Calibrated
    from tlopt.quantization.search.blocks import Block
    from tlopt.quantization.search.float_blocks import Bench
    from tlopt.quantization.search.losses import Run

FILE = "model.onnx"
_JUDGED = 512  # held-out images that the result is judged by
_JUDGED_ANY = 64  # the same of a network that is no classifier: each of its outputs has many values
_SEARCHED_ANY = 32  # images that its float blocks are chosen by
_TRIAL_SECONDS = 0.4


@stage(reads="onnx", writes="onnx")
@ruled(check_precision)
def quantize(
    source: Artifact,
    out: Draft,
    *,
    precision: Annotated[Precision, Setting("Number format in which the graph computes.", common=True)] = "int8",
    for_: Annotated[Runtime, Setting("Runtime that will run the result.", common=True)] = "onnxruntime",
    how: EightBits,
    calibration: CalibrationImages,
    require_faster: Annotated[bool, Setting("Fail if the result is slower than its source.")] = False,
) -> Card:
    """Quantize an ONNX artifact, or cast it to half precision.

    Ranges and rounding are chosen from training images. The input and output of the graph stay as
    they are. Constant arithmetic beside a layer becomes part of its weights first. An artifact from
    qat keeps the ranges that it was trained with.

    At the end the result is measured beside its source, on validation images and on the runtime
    that it was made for. A result for TensorRT is judged with ONNX Runtime and is not timed.

    With --max-drop, blocks that cost too much accuracy stay float. They are chosen by their effect
    on answers and latency, on training images that calibration did not see. Blocks named with
    --float-blocks stay float at any precision.

    A network that is no classifier is judged by the error of each output, on any images. --min-db
    takes the place of --max-drop.

    Integer sums saturate on processors without VNNI if weights take the whole int8 range. See
    --reduce-range.

    Raises:
        ArtifactError: The source is quantized already, or its graph cannot be quantized.
        SettingError: A setting does not fit the precision, or what the network was trained for, or
            there is no block of a name.
        ImagesError: There are no images to calibrate on.
        StageError: The runtime cannot open the source or the result, or OpenVINO misreads the source.
        CheckError: The result is slower than its source, and `require_faster` is set.
    """
    refuse(source, how)
    if for_ == "openvino":
        _expect_read(source)
    trained = trained_scales(source, for_, how) if precision == "int8" else None
    reduced = _reduced(for_, how, trained) if precision == "int8" else False
    limit, classifier = limit_of(how), source.card.task == "classify"
    searched = SEARCHED if classifier else _SEARCHED_ANY
    parts = parts_of(source, calibration.images, labels="none", draw=True, seed=calibration.seed)
    chosen, unseen = divided(
        parts.train, calibration.samples, calibration.seed, searched=0 if limit is None else searched
    )
    require("onnxruntime")
    from tlopt.quantization.float_graph import float_graph
    from tlopt.quantization.search.float_blocks import named

    own = trained is None  # a network that was trained with its scales stays as it was trained
    view = float_graph(source, precision=precision, runtime=for_, folded=own)
    asked = named(view, how.float_blocks, tail=not classifier)
    floats = [node for block in asked for node in block.nodes]
    fixed = fixed_batch(source)
    feed = Feed(images=chosen, preprocess=source.card.preprocess, batch=fixed or calibration.batch, fixed=bool(fixed))
    quantized = Quantized(
        runtime=for_,
        calibration_images=0 if trained else len(chosen),
        float_blocks=tuple(block.name for block in asked),
    )
    if precision == "fp16" or precision == "bf16":  # spelled out for the type checker
        from tlopt.quantization.casts import to_half

        result, large = to_half(view, precision, feed("Calibrating"), keep=floats)
        quantized = replace(quantized, float_nodes=tuple(large))
    else:
        from tlopt.quantization.int8 import calibrate, scheme_of

        if how.equalization:
            view = require("tlopt.quantization.equalization").equalize(view, feed("Equalizing", ROUNDING))
        scheme = scheme_of(
            how, for_, float8=precision == "fp8", reduced=reduced, seed=calibration.seed, trained=trained
        )
        calibrated = calibrate(view, scheme, feed("Calibrating"), floats=floats).rounded(lambda: feed(images=ROUNDING))
        quantized = replace(quantized, reduce_range=reduced, quantizer="trained" if trained else how.quantizer)
        result, quantized = _eight_bits(calibrated, source, unseen, limit, asked, quantized)
    require("onnx").checker.check_model(result, full_check=True)
    made = _written(source, out.folder, result, precision, quantized)
    judged = stratified(parts.held_out, _JUDGED if classifier else _JUDGED_ANY, 0)
    measured = verdict.beside_source(source, made, judged, for_)
    verdict.tell(source, precision, quantized, measured, require_faster=require_faster)
    return replace(
        made.card, details=replace(made.card.onnx, quantized=replace(quantized, measured=measured)), files={}
    )


def _expect_read(source: Artifact) -> None:
    """Refuse a graph that OpenVINO computes otherwise than ONNX defines it. In 8 bits it would not show.

    Raises:
        StageError: OpenVINO does, or does not take the graph.
    """
    with contextlib.suppress(MissingLibraryError), open_runner(source, "openvino"):
        pass


def _reduced(runtime: Runtime, how: EightBits, trained: TrainedScales | None) -> bool:
    """Whether weights keep to half the range.

    Raises:
        SettingError: They do not, and answers that saturate here would choose blocks.
    """
    reduced = trained.reduce_range if trained else reduced_range(runtime, how.reduce_range)
    if limit_of(how) is not None and not reduced and reduced_range(runtime, "auto"):
        raise SettingError(
            f"{'max_drop' if how.min_db is None else 'min_db'} measures answers on this processor, but the integer "
            f"kernels of {runtime} saturate on it.",
            hint="Leave --reduce-range out, or quantize on the processor that will run the result.",
        )
    return reduced


def _eight_bits(
    calibrated: Calibrated,
    source: Artifact,
    unseen: ImageFolder,
    limit: float | None,
    asked: list[Block],
    quantized: Quantized,
) -> tuple[onnx.ModelProto, Quantized]:
    """Return the graph, with the fewest blocks float that the limit of the loss asks for, and what the card says."""
    floats: list[str] = []
    if limit is not None:
        from tlopt.quantization.search.float_blocks import within

        with _bench(source, unseen, quantized) as bench:
            floats, sensitivity = within(calibrated, bench, limit, asked=asked)
        quantized = replace(quantized, sensitivity=sensitivity)
    inside, every = calibrated.multiply_adds(floats)
    return calibrated.graph(floats), replace(quantized, eight_bit_macs=inside, macs=every)


@contextlib.contextmanager
def _bench(source: Artifact, unseen: ImageFolder, quantized: Quantized) -> Iterator[Bench]:
    """Yield what trials of float blocks run on: the runtime that the graph is made for."""
    from tlopt.quantization.search.float_blocks import Bench

    backend = verdict.backend_of(quantized.runtime)
    timed = partial(verdict.times, seconds=_TRIAL_SECONDS, sizes=verdict.timed_batches(source))
    with temporary.folder("quantize") as folder:

        def opened(graph: onnx.ModelProto) -> AbstractContextManager[Run]:
            made = _written(source, Path(tempfile.mkdtemp(dir=folder)), graph, "int8", quantized)
            return open_call(made, backend)

        yield Bench(
            source=lambda: open_call(source, backend),
            mixed=opened,
            times=None if quantized.runtime == "tensorrt" else timed,
            images=unseen,
            preprocess=source.card.preprocess,
            labelled=unseen.classes == source.card.classes,
            answers=source.card.answers,
            outputs=source.card.outputs,
        )


def _written(
    source: Artifact, out: Path, graph: onnx.ModelProto, precision: Precision, quantized: Quantized
) -> Artifact:
    """Write a graph, and return it as the artifact that it will be."""
    from tlopt.graphs.precision import opset_of

    require("onnx").save(graph, out / FILE)
    details = replace(source.card.onnx, opset=opset_of(graph), quantized=quantized)
    return Artifact(path=out, card=replace(source.card, precision=precision, details=details, files={FILE: ""}))
