"""Whether a runtime reads a float graph as ONNX defines it: its answers to a few images, beside ONNX Runtime's.

OpenVINO 2026.4 leaves out what it does not know of some operators, such as `antialias` of Resize, and says nothing.
Whatever else is read otherwise shows in the answers, too. In 8 bits it would not: there all runtimes differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from tlopt import judging
from tlopt.artifact import Artifact
from tlopt.backends import _refusals
from tlopt.backends._batching import fixed_batch, of_each
from tlopt.errors import ArtifactError, MissingLibraryError, StageError, TloptError
from tlopt.outputs import Answer, described

log = logging.getLogger(__name__)

_PLACES = (1, 3, 4)  # of images to try: noise, which hides no detail, a smooth one, and noise
# Noise over signal that rounding explains. Families of timm and torchvision had at most 1e-11 in float32, and at most
# 3e-3 in bf16, which OpenVINO computes half precision in where the processor is faster with it.
_ROUNDING, _HALF = 1e-6, 0.1
_SPREAD = 1e-4  # the least signal, as a share of the answers' own energy: what is all but constant is rounded, too
# What they pick hangs on values that may all but tie, which rounding decides.
_PICKING = frozenset({"TopK", "NonMaxSuppression", "ArgMax", "ArgMin"})
Run = Callable[[np.ndarray], Any]

_found: dict[tuple[str, int, str], float] = {}  # file, when it was changed, runtime and device -> noise over signal


def check(artifact: Artifact, run: Run, name: str, threads: int) -> None:
    """Compare a runtime's answers with those of ONNX Runtime, once for each file; int8 and fp8 are not compared.

    Args:
        artifact: An ONNX artifact.
        run: Gives the logits of images, or every output of each image of a network that is no classifier.
        name: Of the runtime and its device.
        threads: Of ONNX Runtime.

    Raises:
        StageError: They differ by more than rounding explains, or the runtime fails.
    """
    precision = artifact.card.precision
    if precision not in ("fp32", "fp16", "bf16"):
        return
    payload = artifact.payload(".onnx").resolve()
    key = str(payload), payload.stat().st_mtime_ns, name
    if key not in _found:
        _found[key] = _noise(artifact, _told(run, artifact, name), threads)
    exact = precision == "fp32" and name.partition(":")[2].startswith("cpu")  # others may round as they like
    limit = _ROUNDING if exact else _HALF
    if not _found[key] <= limit:  # nor is a NaN
        raise StageError(
            f"{name} computes an operator of {artifact.path} otherwise than ONNX defines it: its answers to "
            f"{len(_PLACES)} images are {judging.decibels(_found[key]):.0f} dB from those of ONNX Runtime, where "
            f"rounding leaves {judging.decibels(limit):.0f} or more.",
            hint=_refusals.HINT,
        )


def _told(run: Run, artifact: Artifact, name: str) -> Run:
    """Return the same function, whose failure is one error that says what ran where."""

    def told(inputs: np.ndarray) -> Any:
        try:
            return run(inputs)
        except TloptError:
            raise
        except Exception as error:  # the runtimes' exception classes share no base but this
            raise StageError(
                f"{name} cannot run {artifact.path}: {_refusals.reason(error)}", hint=_refusals.HINT
            ) from error

    return told


def _noise(artifact: Artifact, run: Run, threads: int) -> float:
    """Return the noise over signal, the median of the images; 0 if nothing can be compared.

    Rounding may decide what a network picks in one image. It does not decide that in most.
    """
    from tlopt.imports.probing import probes

    places = _comparable(artifact)
    inputs = artifact.card.preprocess.normalize(probes(artifact.card.preprocess)[list(_PLACES)])
    wanted = _wanted(artifact, inputs, threads) if places else []
    if not all(np.isfinite(answer[place]).all() for answer in wanted for place in places) or not wanted:
        return 0.0
    found = run(inputs) if artifact.card.outputs else [(row,) for row in run(inputs)]
    pairs = zip(wanted, found, strict=True)
    return median(max(_difference(own[place], other[place]) for place in places) for own, other in pairs)


def _comparable(artifact: Artifact) -> Sequence[int]:
    """Return the places of the outputs that are numbers, as many for each image, and not picked among others."""
    outputs = described(artifact.card)
    if artifact.card.task == "classify":
        return range(len(outputs))
    import onnx

    graph = onnx.load(artifact.payload(".onnx"), load_external_data=False).graph
    picked: set[str] = set()
    for node in graph.node:
        if node.op_type in _PICKING or picked.intersection(node.input):
            picked.update(node.output)
    kept = [not output.varies and output.dtype.startswith("float") and output.name not in picked for output in outputs]
    return [place for place, keep in enumerate(kept) if keep]


def _wanted(artifact: Artifact, inputs: np.ndarray, threads: int) -> list[Answer]:
    """Return every output of each image, as ONNX Runtime computes a graph that it has not optimized.

    Returns:
        None of any image if ONNX Runtime is not here or cannot run it, such as bf16.
    """
    from tlopt.sessions import open_session

    try:
        session = open_session(artifact.payload(".onnx"), threads=threads, optimize=False, arena=False)
        name, names = session.get_inputs()[0].name, [output.name for output in artifact.card.outputs] or None
        half = session.get_inputs()[0].type == "tensor(float16)"
        inputs = inputs.astype(np.float16) if half else inputs
        return of_each(
            lambda part: session.run(names, {name: part}), inputs, fixed_batch(artifact), described(artifact.card)
        )
    except (MissingLibraryError, ArtifactError) as error:
        log.info("not compared with ONNX Runtime: %s", error.message)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base but Exception
        log.info("not compared with ONNX Runtime: %s", error)
    return []


def _difference(wanted: np.ndarray, found: np.ndarray) -> float:
    """Return the energy of the difference over that of the wanted values about their mean."""
    if wanted.shape != found.shape:
        return float("inf")
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    own = float(np.square(wanted).sum())
    signal = max(float(np.square(wanted - wanted.mean()).sum()), _SPREAD * own)
    error = float(np.square(found - wanted).sum())
    if not np.isfinite(error):
        return float("inf")
    return error / signal if signal else float(error > 0)
