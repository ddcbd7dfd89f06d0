"""A graph made from another format is compared with the network that it was made from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tlopt.errors import CheckError
from tlopt.imports.probing import probes
from tlopt.preprocess import Preprocess
from tlopt.sessions import open_session

log = logging.getLogger(__name__)

COUNT = 6  # images
# How pixels of 0 to 255 are scaled, two images each: what a network was trained with is one of them, or near one.
_SCALES = ((1.0, 0.0), (1 / 255, 0.0), (1 / 127.5, -1.0))
# Of the answers' own power: sums in another order differ by about 1e-10, a layer that is wrong by orders more.
_NOISE = 1e-4
_OTHER = 0.02  # share of whole numbers that another order of sums may change
_SIDE = 224  # pixels, where neither a file nor the user says the size


@dataclass(frozen=True, kw_only=True, eq=False)
class Original:
    """A network in another format, and the graph that was made of it.

    Args:
        graph: Made of it.
        inputs: What both are asked, as the network takes it.
        answers: Of the network itself, in the order of the graph's outputs.
        runtime: What ran the network.
    """

    graph: onnx.ModelProto
    inputs: np.ndarray
    answers: Sequence[np.ndarray]
    runtime: str


def filled(shape: Sequence[int | None], size: int | None, width: int | None) -> tuple[int, ...]:
    """Return the shape of an input with each free length filled in: the batch, the sides, three channels."""
    last = len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3)
    high, wide = size or _SIDE, width or size or _SIDE
    usual = (COUNT, high, wide, 3) if last else (COUNT, 3, high, wide)
    return tuple(length or other for length, other in zip(shape, usual, strict=False))


def examples(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Return images of several kinds as a network takes them, in several scales.

    Args:
        shape: (n, 3 or 1, height, width) or (n, height, width, 3 or 1); noise for any other.
        dtype: Of the input, as NumPy knows it.
    """
    whole = not np.issubdtype(dtype, np.floating)
    if len(shape) != 4 or not {shape[1], shape[3]} & {1, 3}:
        return np.random.default_rng(0).random(tuple(shape)).astype(dtype)
    last = shape[1] not in (1, 3)
    high, wide = shape[1:3] if last else shape[2:4]
    fed = Preprocess(size=high, width=0 if wide == high else wide)
    if shape[3 if last else 1] == 1:
        fed = replace(fed, channels="grey", mean=(0.0,), std=(1.0,))
    pixels = probes(fed).astype(np.float64)
    if not whole:
        pixels = np.stack([image * _SCALES[i % 3][0] + _SCALES[i % 3][1] for i, image in enumerate(pixels)])
    found = pixels if last else pixels.transpose(0, 3, 1, 2)
    return found[np.arange(shape[0]) % COUNT].astype(dtype)


def check(original: Original, file: Path) -> None:
    """Compare a graph with the network that it was made from.

    Raises:
        CheckError: They answer otherwise.
    """
    graph = original.graph.graph
    weights = {tensor.name for tensor in graph.initializer}
    [image] = [value.name for value in graph.input if value.name not in weights]
    found = open_session(original.graph).run(None, {image: original.inputs})
    for output, own, wanted in zip(graph.output, found, original.answers, strict=True):
        noise = _noise(np.asarray(own), np.asarray(wanted))
        if not noise <= 1:  # nor is a NaN
            raise CheckError(
                f"The graph made of {file} answers otherwise than {original.runtime} on {len(original.inputs)} "
                f"generated images, in the output {output.name!r}.",
                hint="Export the network to ONNX where its code is, and import the ONNX file.",
            )
    log.info("the graph answers as %s does on %d generated images", original.runtime, len(original.inputs))


def _noise(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return how far answers lie from the wanted ones, on a scale on which 1 is the most that is well."""
    if found.shape != wanted.shape:
        return float("inf")
    if not np.issubdtype(wanted.dtype, np.floating):
        return float((found != wanted).mean()) / _OTHER if wanted.size else 0.0
    # A network may overflow in a scale that it was not trained with. Whether it always does is found out later.
    pairs = [(a, b) for a, b in zip(found.astype(float), wanted.astype(float), strict=True) if np.isfinite(b).all()]
    most = _NOISE * (100 if wanted.dtype == np.float16 else 1)
    return float(np.max([_share(own, other) / most for own, other in pairs], initial=0))


def _share(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the power of the difference as a share of that of the wanted answer, without its mean."""
    power = float(((wanted - wanted.mean()) ** 2).mean()) if wanted.size > 1 else float((wanted**2).mean())
    return float(((found - wanted) ** 2).mean()) / max(power, 1e-12)
