"""Which artifact runs on which backends."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tlopt import registry
from tlopt.artifact import Artifact
from tlopt.backends import DEFAULT, Runner, load, open_runner
from tlopt.errors import ArtifactError, MissingLibraryError, PluginError, StageError, TloptError
from tlopt.progress import NOTICE
from tlopt.reading.files import real_path

log = logging.getLogger(__name__)

# What runs a kind if the user names no backend; one that is not installed is passed over.
_USUAL = {"torch": ("torch",), "onnx": ("onnxruntime", "openvino"), "tensorrt": ("tensorrt",)}


@dataclass(frozen=True)
class Candidate:
    """An artifact on a backend.

    Attributes:
        artifact: What to run.
        backend: ``name`` or ``name:device``.
        problem: Why it cannot run here; empty if it can as far as is known.
    """

    artifact: Artifact
    backend: str
    problem: str = ""


def for_tensorrt(artifact: Artifact) -> bool:
    """Whether an ONNX artifact is meant to become an engine: here only its answers count, not its speed."""
    card = artifact.card
    half = card.precision in ("fp16", "bf16", "fp8")
    return card.kind == "onnx" and (half or card.made_for == "tensorrt")


def own_backend(artifact: Artifact) -> str:
    """Return what runs an artifact if the user names nothing; empty for what runs its kind.

    A graph that was quantized for OpenVINO is run there, if that is installed. In another runtime its answers are not
    those that its users get.
    """
    if artifact.card.kind != "onnx" or artifact.card.made_for != "openvino":
        return ""
    try:
        registry.load("backends", "openvino")
    except MissingLibraryError:
        log.log(
            NOTICE, "%s was quantized for OpenVINO, which is not installed: it runs in ONNX Runtime.", artifact.path
        )
        return ""
    return "openvino"


def labels(artifacts: Sequence[Artifact]) -> list[str]:
    """Return a name for each artifact: its folder's, with as many parents as tell it from the others."""
    paths = [real_path(artifact.path) for artifact in artifacts]
    found = []
    for path in paths:
        depth = 1
        while depth < len(path.parts) and any(
            other != path and other.parts[-depth:] == path.parts[-depth:] for other in paths
        ):
            depth += 1
        found.append("/".join(path.parts[-depth:]))
    return found


def candidates(artifacts: Iterable[Artifact], backends: tuple[str, ...] = ()) -> list[Candidate]:
    """Pair artifacts with the backends that read their kind.

    Args:
        artifacts: What to run.
        backends: ``name`` or ``name:device``; the kind's usual ones if empty.

    Raises:
        PluginError: A named backend or its device is unknown.
        MissingLibraryError: The library of a named backend is not installed.
    """
    reads = {spelled: load(*spelled.partition(":")[::2]).READS for spelled in backends}
    found = []
    for artifact in artifacts:
        kind = artifact.card.kind
        if backends:
            fitting = [spelled for spelled, kinds in reads.items() if kind in kinds]
            found += [Candidate(artifact, spelled) for spelled in fitting]
            if not fitting:
                problem = f"{', '.join(backends)} cannot run the kind {kind}"
                found.append(Candidate(artifact, ", ".join(backends), problem))
            continue
        usual = _USUAL[kind][:1] if for_tensorrt(artifact) else _USUAL[kind]
        for place, spelled in enumerate(usual):
            try:
                registry.load("backends", spelled)
            except MissingLibraryError as error:
                if place == 0:
                    found.append(Candidate(artifact, spelled, said(error)))
            except PluginError as error:
                found.append(Candidate(artifact, spelled, error.message))
            else:
                found.append(Candidate(artifact, spelled))
    return found


@contextmanager
def opened(candidate: Candidate, *, threads: int = 0) -> Iterator[Runner | str]:
    """Open a candidate: its runner, or the reason why it cannot run here."""
    runner: Runner | str
    if candidate.problem:
        yield candidate.problem
        return
    try:
        runner = open_runner(candidate.artifact, candidate.backend, threads=threads)
    except (StageError, MissingLibraryError, ArtifactError) as error:
        yield said(error)
        return
    with runner:
        yield runner


def compare(candidate: Candidate, *, threads: int = 0) -> None:
    """Compare a backend's answers with ONNX Runtime's, if it has to be, so that `opened` takes no time for it.

    What is wrong is told when the candidate is opened.
    """
    with contextlib.suppress(MissingLibraryError, PluginError):
        name = (candidate.backend or DEFAULT[candidate.artifact.card.kind]).partition(":")[0]
        if not candidate.problem and getattr(load(name), "COMPARED", False):
            with opened(candidate, threads=threads):
                pass


@contextmanager
def running(artifact: Artifact, backend: str) -> Iterator[None]:
    """Turn whatever a runtime raises while it runs into one error that says what ran where.

    Raises:
        StageError: The runtime failed.
    """
    try:
        yield
    except TloptError:
        raise
    except Exception as error:  # the runtimes' exception classes share no base but this
        raise StageError(
            f"{backend} failed while running {artifact.path}: {str(error).strip().partition(chr(10))[0]}",
            hint=f"Another backend may run it; a smaller --batch needs less memory. ({type(error).__name__})",
        ) from error


def on_gpu(backend: str) -> bool:
    """Whether a backend, ``name:device``, computes on an NVIDIA GPU."""
    name, _, device = backend.partition(":")
    return name == "tensorrt" or device.startswith(("cuda", "tensorrt"))


def said(error: StageError | MissingLibraryError | ArtifactError) -> str:
    """Return an error as the reason why something did not run."""
    return f"{error.message} {error.hint}".strip()
