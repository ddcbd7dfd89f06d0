"""From a torch model to an ONNX file, checked against it; with ``--trt``, on to an engine."""

from __future__ import annotations

import contextlib
import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from tlopt import judging
from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.cards.details import OnnxDetails, Parity
from tlopt.errors import ArtifactError, CheckError, ImagesError, MissingLibraryError, SettingError, reason
from tlopt.images import batches
from tlopt.images.of_artifact import parts_of
from tlopt.progress import bar
from tlopt.publishing import Draft, check_place
from tlopt.publishing.places import located
from tlopt.registry import require
from tlopt.sessions import open_session
from tlopt.settings import Setting, checked, formerly, ruled
from tlopt.stages import Stage, stage

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)

FILE = "model.onnx"
READS = ("torch", "onnx")
# Float32 sums taken in another order: logits differ by about 1e-5 of their spread, seen on ResNet,
# MobileNet and EfficientNet. A wrong graph is off by orders of magnitude more.
TOLERANCE = 1e-3
_CHECKED = 32  # images of the parity check
# A network may blow up its own rounding: how much farther from exact arithmetic than torch a right graph may then be,
# and from how far on nothing can be told.
_AS_EXACT, _LOST = 4, 0.1
_FLIPS = 100  # times the noise of sums in another order: what a rounded or chosen value may turn it into


def _refuse_target(target: tuple[str, ...] | None, trt: bool) -> None:
    if target and not trt:
        raise SettingError("--target is for engines.", hint="Add --trt, or leave --target out.")


def _refuse_same(precision: str, trt: bool, input_: str, kind: str) -> None:
    if (kind, precision, input_, trt) == ("onnx", "fp32", "float32", False):
        raise ArtifactError(
            "The source is an ONNX artifact already.", hint="Add --input uint8, --precision int8 or --trt."
        )


@checked
@ruled(_refuse_target, _refuse_same)
@formerly(onnx="Leave it out: export stops at the ONNX file unless --trt is given.")
def export(
    source: str | Path | Artifact,
    out: str | Path,
    *,
    trt: Annotated[bool, Setting("Build a TensorRT engine, too.")] = False,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"], Setting("Precision of the result. fp16 and int8 quantize the exported graph.")
    ] = "fp32",
    target: Annotated[
        tuple[str, ...] | None, Setting("GPUs for which the engine is built, as in tlopt build.", metavar="SM,…")
    ] = None,
    input_: Annotated[
        Literal["float32", "uint8"],
        Setting(
            "Input of the graph. float32 takes normalized pixels. uint8 takes raw RGB bytes of shape (n, h, w, 3)."
        ),
    ] = "float32",
    opset: Annotated[int, Setting("Version of the ONNX operators.", minimum=18, maximum=23)] = 18,
    images: Annotated[Path | None, Setting("Folder of images for calibration. Default: the training images.")] = None,
    force: bool = False,
) -> Artifact:
    """Export a trained network to ONNX, or on to TensorRT.

    The exported graph takes a batch of any size. Its outputs are compared with those of the torch
    network before the artifact counts as made.

    An ONNX artifact can be exported again, to take uint8 or to go on to another precision or to TensorRT.
    Its operators stay as they are.

    With --precision or --trt the commands quantize and build follow. The artifacts on the way stay
    beside the result, in OUT-fp32 and OUT-fp16 or OUT-int8.

    Raises:
        ArtifactError: The source is an engine, or an ONNX artifact that takes uint8, was quantized or would not change.
        SettingError: A setting does not fit, or there is a `target` without `trt`.
        CheckError: The ONNX file computes something else than the torch model.
    """
    out = Path(out)
    kind = Artifact.load(source).card.kind
    _refuse_same(precision, trt, input_, kind)
    steps: list[tuple[str, Stage, dict[str, Any]]] = [("fp32", _export, {"input": input_, "opset": opset})]
    if kind == "onnx" and input_ == "float32":
        steps = []
    if precision != "fp32":
        runtime = "tensorrt" if trt else "onnxruntime"
        given = {"precision": precision, "for": runtime, "images": images}
        steps.append((precision, require("tlopt.stages.quantize").quantize, given))
    if trt:
        steps.append(("engine", require("tlopt.stages.build").build, {"target": target} if target else {}))
    reads = [source.path if isinstance(source, Artifact) else source, *([images] if images else [])]
    check_place(out, force=force, reads=reads)
    places = [*on_the_way(out, kind=kind, precision=precision, trt=trt, input_=input_), out]
    artifact: Artifact | None = None if force else Artifact.load(source)
    kept: dict[Path, Artifact] = {}
    for (_, step, given), place in zip(steps, places, strict=True):
        # What a killed run left on the way is what this one would make.
        artifact = step.standing(artifact, place, **given) if artifact is not None and place != out else None
        if artifact is not None:
            kept[place] = artifact
        else:
            check_place(place, force=force, reads=reads)
            if place != out:
                step.expect_own(place)
    made = Artifact.load(source)
    for (_, step, given), place in zip(steps, places, strict=True):
        made = kept[place] if place in kept else step(made, place, force=force, **given)
    return made


def on_the_way(out: Path, *, kind: str, precision: str, trt: bool, input_: str) -> list[Path]:
    """Return the places of the artifacts that `export` makes before its result, from the kind of its source."""
    labels = [] if kind == "onnx" and input_ == "float32" else ["fp32"]
    labels += [precision] if precision != "fp32" else []
    place = located(out)
    return [place.with_name(f"{place.name}-{label}") for label in (labels if trt else labels[:-1])]


@stage(reads=READS, writes="onnx")
def _export(
    source: Artifact,
    out: Draft,
    *,
    input_: Annotated[Literal["float32", "uint8"], Setting("Input of the graph.")],
    opset: Annotated[int, Setting("Version of the ONNX operators.", minimum=18, maximum=23)],
) -> Card:
    """Write the ONNX file and compare it with the torch model."""
    if source.card.kind == "onnx":
        return _with_pixels(source, out)
    import onnx

    from tlopt.graphs import pixels
    from tlopt.graphs.rewriting.constants import fold_parameters
    from tlopt.graphs.rewriting.parallel import without_branches
    from tlopt.graphs.unmistakable import unmistakable, with_safe_orders
    from tlopt.networks.merging import merged
    from tlopt.networks.tracing import trace
    from tlopt.sources import open_model

    model = open_model(source)
    size = source.card.preprocess.size
    # Trained scales belong to the tensors of the network as it was trained.
    simple = merged(model, size) if source.card.torch.qat is None else model
    preprocess = replace(source.card.preprocess, folded=input_ == "uint8")
    with bar("Exporting", 1) as shown:
        proto, _ = trace(simple, size, opset)
        shown.advance()
    if preprocess.folded:
        proto = pixels.take_pixels(proto, source.card.preprocess)
    # Those scales belong to the tensors of the graph, too: nothing may be added to it.
    if source.card.torch.qat is None:
        proto = unmistakable(without_branches(fold_parameters(proto)))
    else:
        proto = with_safe_orders(proto)
    onnx.checker.check_model(proto, full_check=True)
    file = out / FILE
    onnx.save(proto, file)
    parity = _compare(model, file, source, replace(source.card, preprocess=preprocess))
    network = source.card.torch
    if preprocess.folded and network.qat is not None:
        # The scale of the input is that of the first tensor in its place.
        scales = {pixels.FIRST if k == pixels.INPUT else k: v for k, v in network.qat.scales.items()}
        network = replace(network, qat=replace(network.qat, scales=scales))
    details = OnnxDetails(opset=opset, answers=source.card.answers, parity=parity, network=network)
    return replace(source.card, kind="onnx", preprocess=preprocess, details=details)


def _with_pixels(source: Artifact, out: Draft) -> Card:
    """Let a graph that takes normalized pixels take raw ones, and compare both.

    Raises:
        ArtifactError: It takes raw pixels already, or is no float graph.
        CheckError: The graphs differ.
    """
    import onnx

    from tlopt.graphs.loading import load_graph
    from tlopt.graphs.pixels import take_pixels

    card = source.card
    if card.preprocess.folded or card.precision != "fp32":
        what = "takes uint8 pixels already" if card.preprocess.folded else f"is in {card.precision} already"
        raise ArtifactError(f"{source.path} {what}.", hint="Export the fp32 artifact that it was made from.")
    proto = take_pixels(load_graph(source.payload(".onnx")), card.preprocess)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, out / FILE)
    made = replace(card, preprocess=replace(card.preprocess, folded=True), files={FILE: ""})
    _compare_graphs(source, Artifact(path=out.folder, card=made))
    return replace(made, files={})


def _compare_graphs(source: Artifact, made: Artifact) -> None:
    """Run two graphs on the same pixels.

    Raises:
        CheckError: They differ by more than the tolerance.
    """
    from tlopt.backends import open_call
    from tlopt.outputs import Errors, described

    pixels, origin = _pixels(source)
    with open_call(source) as run, open_call(made) as other:
        before, after = run(source.card.preprocess.normalize(pixels)), other(pixels)
    errors = Errors(described(source.card))
    for own, new in zip(before, after, strict=True):
        pair = (own, new) if source.card.task == "any" else ((own,), (new,))
        errors.add(*pair)
    if not errors.noise() <= TOLERANCE**2 * _FLIPS:  # nor is a NaN
        raise CheckError(
            f"The graph that takes uint8 differs from {source.path} on {len(pixels)} {origin}: "
            f"{judging.decibels(errors.noise()):.0f} dB.",
            hint="Keep the float input, and report the model's name.",
        )


def _compare(model: nn.Module, file: Path, source: Artifact, card: Card) -> Parity:
    """Run the torch model and the ONNX file on the same images.

    Returns:
        What was compared: images, their origin, the largest difference of logits relative to the
        spread of the torch model's logits, and the share of equal labels.

    Raises:
        CheckError: They differ by more than the tolerance.
    """
    import torch

    pixels, origin = _pixels(source)
    inputs = torch.from_numpy(source.card.preprocess.normalize(pixels))
    with torch.inference_mode():
        wanted = model(inputs).numpy()
    runtime, found = _run(file, card.preprocess.normalize(pixels))
    difference = float(np.abs(found - wanted).max() / max(float(wanted.std()), 1e-6))
    agreement = judging.agreement(found.argmax(1), wanted.argmax(1))
    if not difference <= TOLERANCE and not _as_exact(model, inputs, wanted, found):  # nor is a NaN
        raise CheckError(
            f"The exported graph differs from the torch model: logits by {difference:.2g} of their spread "
            f"on {len(pixels)} {origin}, more than {TOLERANCE:g}.",
            hint="Try another --opset, or report the model's name.",
        )
    log.info("parity with torch on %d %s: largest difference %.1e, same labels %.1f %%",
             len(pixels), origin, difference, 100 * agreement)  # fmt: skip
    return Parity(images=len(pixels), origin=origin, runtime=runtime, difference=difference, agreement=agreement)


def _as_exact(model: nn.Module, inputs: torch.Tensor, wanted: np.ndarray, found: np.ndarray) -> bool:
    """Whether a graph is about as near to exact arithmetic as the torch model: then the difference is rounding alone.

    Args:
        model: float32.
        inputs: float32 (n, 3, h, w).
        wanted: Its logits.
        found: The graph's logits.
    """
    import torch

    try:
        with torch.inference_mode():
            exact = copy.deepcopy(model).double()(inputs.double()).numpy()
    except (RuntimeError, TypeError, ValueError) as error:  # it makes float32 tensors of its own
        log.debug("not computed in float64: %s", error)
        return False
    spread = max(float(exact.std()), 1e-6)
    own, graph = (float(np.abs(logits - exact).max()) / spread for logits in (wanted, found))
    if not (graph <= _AS_EXACT * own and graph <= _LOST):
        return False
    log.warning("Rounding in float32 alone changes this network's logits by %.1e of their spread.", own)
    return True


def _pixels(source: Artifact) -> tuple[np.ndarray, str]:
    """Return pixels, uint8 (n, h, w, 3), of validation images, or noise if there are none here."""
    preprocess = replace(source.card.preprocess, folded=True)
    if source.card.images is not None:
        with contextlib.suppress(ImagesError):
            part = parts_of(source, labels="none").held_out
            some = part.select(np.linspace(0, len(part) - 1, min(_CHECKED, len(part)), dtype=int))
            return next(batches(some, preprocess, batch=_CHECKED)).inputs, "validation images"
    noise = np.random.default_rng(0).integers(0, 256, (8, *preprocess.input_shape), dtype=np.uint8)
    return noise, "noise images (the training images are not here)"


def _run(file: Path, inputs: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the runtime's name and the logits, in ONNX Runtime or else in ONNX's slow reference."""
    try:
        session = open_session(file)
    except MissingLibraryError:
        from onnx.reference import ReferenceEvaluator

        return "onnx reference", np.asarray(ReferenceEvaluator(str(file)).run(None, {"images": inputs})[0])
    try:
        return "onnxruntime", np.asarray(session.run(None, {"images": inputs})[0])
    except Exception as error:  # its exceptions share no base
        told = f"The exported graph does not run on {len(inputs)} images: {reason(error)}."
        raise CheckError(told, hint="Look in its forward for what makes numbers of tensors: item, tolist.") from error
