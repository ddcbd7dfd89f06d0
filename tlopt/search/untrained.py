"""What a point of the space would run, without training: nothing of how fast it is needs trained weights."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import cast

from tlopt import backends
from tlopt.artifact import Artifact
from tlopt.cards.details import Runtime
from tlopt.environment import versions
from tlopt.errors import ArtifactError, PluginError, StageError
from tlopt.search.drafting import cast_graph, new_network, resized_graph
from tlopt.search.machine import fingerprint_digest
from tlopt.search.once import digest_of, once
from tlopt.search.space import Point

log = logging.getLogger(__name__)

_BASE, _STRIDE = 224, 32  # pixels: the size that graphs are made at, and the total stride of the usual networks
_VERSION = 2  # of what is kept: a change of how it is made or measured makes it anew


def untrained(point: Point, *, classes: int, work: Path) -> Artifact:
    """Make the artifact that a point would run, without training; each step of it is made once.

    The network has its pretrained weights and a new classifier. Pruning goes by the size of the weights, and int8 by
    the range of noise: neither decides how fast the result is.

    Args:
        point: What to make.
        classes: Number of classes.
        work: Folder that keeps what is made.

    Raises:
        PluginError: The network cannot be opened here.
        StageError: It cannot be pruned, exported, quantized or built.
        ArtifactError: It does not run in this precision.
        CheckError: The exported graph computes something else.
    """
    reads = backends.load(*point.backend.partition(":")[::2]).READS
    source = point.network.opened_artifact()
    if "onnx" not in reads and "tensorrt" not in reads:
        if point.precision != "fp32":
            raise ArtifactError(f"{point.backend} runs networks in fp32 only, not in {point.precision}.")
        return _network(point, source, classes, work).expect(*reads)
    graph = _resized(point, classes, work) if source is None else None
    if graph is None:
        graph = _graph(point, source, classes, work)
    return graph if "onnx" in reads else _built(graph, work)


def _resized(point: Point, classes: int, work: Path) -> Artifact | None:
    """Return the graph of a point by giving that of another size its own size; None if that cannot be.

    Exporting, pruning and quantizing take seconds, and the layers of a convolutional network are the same for every
    size. Where the padding of a strided layer depends on the size, it is the same for multiples of its total stride.
    """
    if point.image_size == _BASE or point.image_size % _STRIDE:
        return None
    try:
        base = _graph(replace(point, image_size=_BASE), None, classes, work)
        address = digest_of(*made_by(), base.digest, "size", point.image_size)
        return once(
            work / "graphs" / address,
            lambda place: resized_graph(base, place, force=True, image_size=point.image_size),
        )
    except (StageError, PluginError) as error:
        log.info("%s is exported at its own size: %s", point.label, error.message)
        return None


def _graph(point: Point, source: Artifact | None, classes: int, work: Path) -> Artifact:
    """Return the graph of a point in its precision."""
    graph = source if source is not None and source.card.kind == "onnx" else _exported(point, source, classes, work)
    if point.numbers == graph.card.precision:
        return graph
    return _cast(point, graph, runtime_of(point.backend), work)


def made_by() -> tuple[str, int]:
    """Return what an address begins with, so that another tlopt makes and measures anew."""
    return versions().get("tlopt", ""), _VERSION


def runtime_of(backend: str) -> Runtime:
    """Return the runtime that an int8 graph is made for so that a backend runs it."""
    name = backend.partition(":")[0]
    return cast(Runtime, name) if name in ("openvino", "tensorrt") else "onnxruntime"


def _network(point: Point, source: Artifact | None, classes: int, work: Path) -> Artifact:
    """Return the torch network of a point, pruned if it is to be."""
    from tlopt.stages.prune import prune

    if source is None:
        address = digest_of(*made_by(), point.network.digest, point.image_size, classes)
        source = once(
            work / "networks" / address,
            lambda place: new_network(
                None, place, force=True, model=point.network.name, weights=point.network.weights,
                image_size=point.image_size, classes=classes,
            ),
        )  # fmt: skip
    if point.width == 1:
        return source
    whole, ratio = source, round(1 - point.width, 6)
    return once(
        work / "networks" / digest_of(*made_by(), source.digest, ratio),
        lambda place: prune(whole, place, force=True, ratio=ratio, criterion="magnitude", epochs=0),
    )


def _exported(point: Point, source: Artifact | None, classes: int, work: Path) -> Artifact:
    from tlopt.stages.export import export

    network = _network(point, source, classes, work)
    place = work / "graphs" / digest_of(*made_by(), network.digest)
    return once(place, lambda out: export(network, out, force=True))


def _cast(point: Point, graph: Artifact, runtime: Runtime, work: Path) -> Artifact:
    precision = point.numbers
    how = (*made_by(), graph.digest, precision, runtime)
    return once(
        work / "graphs" / digest_of(*how),
        lambda place: cast_graph(
            graph, place, force=True, precision=precision, runtime=runtime,
        ),
    )  # fmt: skip


def _built(graph: Artifact, work: Path) -> Artifact:
    from tlopt.stages.build import build

    return once(
        work / "engines" / digest_of(*made_by(), graph.digest, fingerprint_digest()),
        lambda place: build(graph, place, force=True),
    )
