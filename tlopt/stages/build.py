"""The stage that makes a TensorRT engine of an ONNX artifact."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

from tlopt.artifact import Artifact, sha256
from tlopt.cards.card import Card
from tlopt.cards.details import BuiltFrom, EngineDetails, EngineOptions
from tlopt.engine.building import builder, explaining
from tlopt.engine.building.builder import Engine
from tlopt.engine.building.options import Options
from tlopt.engine.building.targets import Plan, check_names, plan
from tlopt.errors import ArtifactError
from tlopt.publishing import Draft
from tlopt.reading.files import real_path
from tlopt.registry import require
from tlopt.settings import Setting, ruled
from tlopt.stages import stage
from tlopt.trusted import engines as trusted_engines

ENGINE_NAME = "model.engine"
LAYERS_NAME = "layers.json"
EXPLANATION_NAME = "explanation.txt"

log = logging.getLogger(__name__)

# Precision -> what layers that compute in it read, as the library calls it.
_QUANTIZED = {"int8": "Int8", "fp8": "FP8"}


@stage(reads="onnx", writes="tensorrt")
@ruled(check_names, builder.check_options)
def build(
    source: Artifact,
    out: Draft,
    *,
    target: Annotated[
        tuple[str, ...],
        Setting(
            "GPUs for which the engine is built, such as sm80, sm86, sm89 or sm120. current is the GPU of "
            "this machine. auto is current, or the four named here on a machine without a GPU."
        ),
    ] = ("auto",),
    flavour: Annotated[
        Literal["auto", "tensorrt", "rtx"],
        Setting("Builder to use. rtx is TensorRT for RTX. auto takes the builder that knows the targets."),
    ] = "auto",
    explain: Annotated[
        bool,
        Setting("Say which layers do not compute in the artifact's precision, and what keeps them from it."),
    ] = False,
    options: Options,
) -> Card:
    """Build a TensorRT engine from an ONNX artifact.

    The ONNX file decides the precision of each layer, by its casts and its QuantizeLinear and
    DequantizeLinear nodes. The builder takes no option for it. The result holds the engine and a
    list of its layers.

    Raises:
        PluginError: A target is unknown.
        ArtifactError: The artifact was quantized for another runtime.
        SettingError: Settings do not go together, or not with this kind of TensorRT.
        MissingLibraryError: No TensorRT that can build for the target is installed.
        StageError: The target cannot be built for here, or TensorRT refuses the network.
    """
    chosen = plan(target, flavour=flavour, precision=source.card.precision)
    onnx = source.payload(".onnx")
    if source.card.precision == "int8":
        _refuse_integers(source, onnx)
    preprocess = source.card.preprocess
    engine = builder.build(
        onnx, chosen, options, shape=preprocess.input_shape, dtype=preprocess.input_dtype.name,
        classifier=source.card.task == "classify",
    )  # fmt: skip
    wanted = _QUANTIZED.get(source.card.precision)
    if wanted and engine.layers.computes_in(wanted) is False:
        log.warning("No layer of the engine computes in %s: see %s.", source.card.precision, LAYERS_NAME)
    if explain:
        _explain(out, engine, onnx, source.card.precision)
    (out / ENGINE_NAME).write_bytes(engine.data)
    if options.version_compatible:  # it holds code that runs when it is opened, and whoever built it may open it
        trusted_engines.remember(hashlib.sha256(engine.data).hexdigest(), out.folder / ENGINE_NAME)
    (out / LAYERS_NAME).write_text(engine.layers.to_json(), encoding="utf-8")
    details = _details(source, onnx, out.folder, chosen, options, engine)
    return replace(source.card, kind="tensorrt", details=details)


def _explain(out: Draft, engine: Engine, file: Path, precision: str) -> None:
    """Write what computes in another precision, and why; say it, too."""
    found = explaining.explain(engine.layers, require("onnx").load(file, load_external_data=False), precision)
    (out / EXPLANATION_NAME).write_text(found.text, encoding="utf-8")
    for stray in found.strays:
        log.warning("%s", stray)
    log.info("%s", found.text.splitlines()[0])


def _refuse_integers(source: Artifact, file: Path) -> None:
    """Refuse a graph whose integers TensorRT does not take.

    Raises:
        ArtifactError: It was quantized for another runtime.
    """
    from tlopt.graphs.precision import tensorrt_objection

    reason = tensorrt_objection(require("onnx").load(file))
    if reason:
        raise ArtifactError(
            f"{source.path} was quantized for {source.card.made_for or 'another runtime'}. "
            f"TensorRT does not take it: {reason}.",
            hint="Quantize the fp32 artifact that it was made from: tlopt quantize FP32 --for tensorrt -o OUT.",
        )


def _details(source: Artifact, onnx: Path, out: Path, chosen: Plan, options: Options, engine: Engine) -> EngineDetails:
    """Return what decides where the engine runs, and how to build it again."""
    return EngineDetails(
        flavour=chosen.flavour.name,
        version=chosen.flavour.version,
        cuda=chosen.flavour.cuda,
        targets=chosen.targets,
        gpu=chosen.gpu,
        profile=engine.profile,
        options=EngineOptions(
            **{**asdict(options), "opt_batch": options.tuned_batch, "timing_cache": engine.timing_cache}
        ),
        inspector=engine.layers.summary,
        onnx=BuiltFrom(
            artifact=source.digest,
            sha256=sha256(onnx),
            # Relative to the engine's folder, so that both can be moved together.
            path=os.path.relpath(real_path(onnx), real_path(out)),
        ),
        answers=source.card.answers,
        task=source.card.task,
        outputs=source.card.outputs,
    )
