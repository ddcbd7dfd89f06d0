"""Opening a built engine: refused in words before the library sees a byte of it, then deserialized."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlopt.artifact import Artifact
from tlopt.cards.details import EngineDetails, Gpu
from tlopt.engine import driver as drivers
from tlopt.engine import flavour as flavours
from tlopt.engine.driver import graphs
from tlopt.engine.flavour import TITLES, Flavour
from tlopt.engine.gpu import gpu, gpu_problem
from tlopt.engine.messages import Messages
from tlopt.errors import ArtifactError, MissingLibraryError, StageError
from tlopt.reading import files
from tlopt.trusted import engines as trusted_engines


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A deserialized engine and what it was opened with; it must outlive its execution contexts."""

    flavour: Flavour
    gpu: Gpu
    engine: Any
    runtime: Any
    messages: Messages


def mismatch(details: EngineDetails, found: Flavour, here: Gpu) -> str:
    """Return why an engine cannot run with this library on this GPU; empty if it can.

    Args:
        details: Of the engine's card.
        found: The kind of TensorRT that is installed.
        here: The GPU of this machine.
    """
    built, options = details.version, details.options
    if found.name != details.flavour:
        return f"it was built with {TITLES[details.flavour]}, this is {found.title}"
    if found.lean and (not options.version_compatible or options.strip_weights):
        kind = "with their weights, " * options.strip_weights
        return f"{found.title} opens engines that were built {kind}with --version-compatible"
    if options.version_compatible:
        # Newer versions, also of the next major, read such an engine through the lean runtime in it
        # (TensorRT 11.1 documentation, "Engine Compatibility").
        if _newer(built, found.version):
            return f"it was built with version {built}, which {found.title} does not open"
    elif found.version != built:
        return f"it was built with version {built}, this is {found.title}"
    made_on = details.gpu
    if here.capability not in details.targets and not (
        options.hardware_compatible == "ampere-plus" and int(here.capability[2:]) >= 80
    ):
        return f"it was built for {', '.join(details.targets)}, this GPU is {here.capability} ({here.name})"
    tied = found.name == "tensorrt" and options.hardware_compatible == "no"
    if tied and made_on is not None and made_on.name != here.name:
        return f"it was tuned on {made_on.name}, this GPU is {here.name}"
    return ""


def _newer(version: str, than: str) -> bool:
    first, second = ([int(part) for part in re.findall(r"\d+", text)] for text in (version, than))
    return first > second


def rebuild(artifact: Artifact, capability: str) -> str:
    """Return the command that builds an engine again for a GPU."""
    details = artifact.card.engine
    source = Path(os.path.normpath(artifact.path / details.onnx.path)).parent
    target = "current" if details.flavour == "tensorrt" else capability or "current"
    return f"tlopt build {source} -o {artifact.path}-{target} --flavour {details.flavour} --target {target}"


def check(artifact: Artifact) -> tuple[Flavour, Gpu]:
    """Refuse an engine that cannot run here, without opening it.

    Returns:
        The library that opens it, and the GPU.

    Raises:
        MissingLibraryError: The kind of TensorRT that built it is not installed.
        StageError: There is no GPU.
        ArtifactError: It was built for another GPU, version or kind.
    """
    here = gpu()
    if here is None:
        raise StageError(
            f"{artifact.path} is a TensorRT engine and runs on an NVIDIA GPU only. {gpu_problem()}",
            hint="Run the onnx artifact that it was built from, or move the engine to a machine with a GPU.",
        )
    found = flavours.load(artifact.card.engine.flavour, to_run=True)
    if reason := mismatch(artifact.card.engine, found, here):
        raise ArtifactError(f"{artifact.path} cannot run here: {reason}.", hint=rebuild(artifact, here.capability))
    return found, here


def open_engine(artifact: Artifact) -> Opened:
    """Deserialize an engine; a CUDA context must be current.

    An engine file can make the library do anything. Only bytes whose digest is the card's are
    handed to it: they are hashed as read, after the checks of `check`.

    Raises:
        ArtifactError: The engine is not what its card says, cannot run here, or holds code that nobody trusts.
        StageError: TensorRT cannot open it.
    """
    found, here = check(artifact)
    file = artifact.payload(".engine")
    data = files.read_bytes(file, limit=files.TABLE_LIMIT)
    digest = hashlib.sha256(data).hexdigest()
    if digest != artifact.card.files[file.name]:
        raise ArtifactError(f"{file} was changed after the artifact was loaded.", hint="Make the artifact again.")
    messages = Messages(found.api)
    runtime = found.make("Runtime", messages)
    _refuse_invalid(runtime, found.api, data, artifact, here)
    # A version-compatible engine carries a runtime of its own, which is code for the processor.
    if artifact.card.engine.options.version_compatible:
        trusted_engines.check(digest, artifact.path)
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise StageError(
            f"{found.title} cannot open {file}: {messages.last()}", hint=rebuild(artifact, here.capability)
        )
    opened = Opened(flavour=found, gpu=here, engine=engine, runtime=runtime, messages=messages)
    if artifact.card.engine.options.strip_weights:
        refit(opened, _weights(artifact))
    return opened


def _refuse_invalid(runtime: Any, api: Any, data: bytes, artifact: Artifact, here: Gpu) -> None:
    """Let TensorRT for RTX judge the engine's header; the other kind has no such call."""
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, reasons = runtime.get_engine_validity(data)
    if validity == api.EngineValidity.INVALID:
        known = api.EngineInvalidityDiagnostics.__members__
        named = [name.lower().replace("_", " ") for name, bit in known.items() if int(reasons) & int(bit)]
        raise ArtifactError(
            f"{artifact.path} cannot run here: {', '.join(named) or 'the engine is invalid'}.",
            hint=rebuild(artifact, here.capability),
        )


def _weights(artifact: Artifact) -> Path:
    """Return the ONNX file that holds a stripped engine's weights."""
    expected = artifact.card.engine.onnx
    file = Path(os.path.normpath(artifact.path / expected.path))
    try:
        found = hashlib.sha256(files.read_bytes(file, limit=files.TABLE_LIMIT)).hexdigest()
    except OSError as error:
        raise ArtifactError(
            f"{artifact.path} was built without weights, and {file}, which has them, cannot be read.",
            hint="Put the ONNX artifact that the engine was built from back in its place.",
        ) from error
    if found != expected.sha256:
        raise ArtifactError(
            f"{artifact.path} was built without weights, and {file} is not the file that it was built from.",
            hint="Put the ONNX artifact that the engine was built from back in its place.",
        )
    return file


def refit(opened: Opened, onnx: Path) -> None:
    """Replace an open engine's weights by those of an ONNX file of the same architecture.

    Raises:
        StageError: The engine was not built with ``refit`` or ``strip_weights``, or the file's
            weights do not fit.
    """
    api, messages = opened.flavour.api, opened.messages
    if opened.flavour.lean:
        raise StageError(
            f"{opened.flavour.title} does not read ONNX files.", hint="Refit with the whole TensorRT: tlopt[gpu]."
        )
    if not opened.engine.refittable:
        raise StageError("The engine's weights cannot be replaced.", hint="Build the engine with --refit.")
    refitter = api.Refitter(opened.engine, messages.logger)
    parser = api.OnnxParserRefitter(refitter, messages.logger)
    if not parser.refit_from_file(str(onnx)) or not refitter.refit_cuda_engine():
        raise StageError(
            f"The weights of {onnx} do not fit the engine: {messages.last()}", hint="Build a new engine from that file."
        )


def problem(device: str = "") -> str:
    """Return why no engine can run here, found by trying; empty if one can.

    Args:
        device: "cuda", or "cuda-graphs"; empty for the first.
    """
    if reason := gpu_problem():
        return reason
    if not flavours.installed("tensorrt", to_run=True) and not flavours.installed("rtx"):
        return flavours.problem("tensorrt")
    if device == "cuda-graphs" and not flavours.installed("rtx"):
        try:
            graphs.load()
        except MissingLibraryError as error:
            return str(error)
    return drivers.problem()
