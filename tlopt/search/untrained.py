"""How fast a network would be: nothing of that needs trained weights."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from tlopt import backends
from tlopt.artifact import Artifact
from tlopt.cards.details import Runtime
from tlopt.environment import versions
from tlopt.errors import ArtifactError, CheckError, MissingLibraryError, PluginError, StageError
from tlopt.measure.bench import TURNS, bench
from tlopt.measure.statistics import mean_interval
from tlopt.search.drafting import cast_graph, new_network, resized_graph
from tlopt.search.machine import fingerprint_digest
from tlopt.search.once import digest_of, once, remembered
from tlopt.search.space import Point

log = logging.getLogger(__name__)

SESSIONS = 5  # times that each candidate is opened; where its memory comes to lie makes one faster than another
_WRONG = (ArtifactError, CheckError, MissingLibraryError, PluginError, StageError)
_BASE, _STRIDE = 224, 32  # pixels: the size that graphs are made at, and the total stride of the usual networks
_VERSION = 2  # of what is kept: a change of how it is made or measured makes it anew


@dataclass(frozen=True, kw_only=True)
class Timed:
    """How fast a point of the space is on a machine, or why it does not run there.

    Args:
        point: Digest of the point.
        machine: Digest of the machine.
        backend: What ran it, as the runner calls itself.
        batch: Images per run.
        latency_ms: Median of a session's runs, the geometric mean of all sessions, for a batch.
        interval_ms: Its 95 % interval, from the spread of the sessions.
        sessions_ms: Median of each session.
        p99_ms: 99 of 100 runs take no longer.
        images_per_s: Throughput of the runs, one after the other.
        size_mb: Size of the files that run, 10^6 bytes.
        memory_mb: Peak memory on the host, 10^6 bytes; None if it was not measured.
        seconds: What it cost to make and to measure.
        notes: What disturbed the measurement, a sentence each.
        problem: Why it could not be made or run here; empty if it could. No number is one then.
    """

    point: str
    machine: str
    backend: str
    batch: int
    latency_ms: float = math.nan
    interval_ms: tuple[float, float] = (math.nan, math.nan)
    sessions_ms: tuple[float, ...] = ()
    p99_ms: float = math.nan
    images_per_s: float = math.nan
    size_mb: float = math.nan
    memory_mb: float | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    problem: str = ""

    def and_again(self, other: Timed) -> Timed:
        """Return this measurement and another of the same artifact as one, over the sessions of both."""
        latency, interval = _of_sessions(sessions := (*self.sessions_ms, *other.sessions_ms))
        memory = [one.memory_mb for one in (self, other) if one.memory_mb is not None]
        return replace(
            self,
            latency_ms=latency,
            interval_ms=interval,
            sessions_ms=sessions,
            p99_ms=max(self.p99_ms, other.p99_ms),
            images_per_s=math.sqrt(self.images_per_s * other.images_per_s),
            memory_mb=max(memory, default=None),
            seconds=self.seconds + other.seconds,
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
        )


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
        address = digest_of(*_made_by(), base.digest, "size", point.image_size)
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


def _made_by() -> tuple[str, int]:
    """Return what an address begins with, so that another tlopt makes and measures anew."""
    return versions().get("tlopt", ""), _VERSION


def runtime_of(backend: str) -> Runtime:
    """Return the runtime that an int8 graph is made for so that a backend runs it."""
    name = backend.partition(":")[0]
    return cast(Runtime, name) if name in ("openvino", "tensorrt") else "onnxruntime"


def time_untrained(
    point: Point,
    *,
    classes: int,
    work: Path,
    seconds: float = 1.0,
    batch: int = 1,
    memory: bool = True,
) -> Timed:
    """Measure how fast a point is on this machine, without training; a point is measured once.

    Args:
        point: What to measure.
        classes: Number of classes.
        work: Folder that keeps what is made and measured.
        seconds: Time measured.
        batch: Images per run.
        memory: Measure the peak memory, in a process of its own.
    """
    how = (*_made_by(), point.digest, classes, batch, seconds, memory, fingerprint_digest())

    def measure() -> Timed:
        started = time.perf_counter()
        try:
            artifact = untrained(point, classes=classes, work=work)
        except _WRONG as error:
            return _failed(point, batch, f"{error.message} {error.hint}".strip(), started)
        return _measured(artifact, point, seconds, batch, memory, started)

    return remembered(work / "timings" / f"{digest_of(*how)}.json", Timed, measure)


def time_artifact(
    artifact: Artifact,
    point: Point,
    *,
    work: Path,
    seconds: float = 1.0,
    batch: int = 1,
    memory: bool = True,
    again: bool = False,
) -> Timed:
    """Measure an artifact on a point's backend and threads by the same clock; an artifact is measured once.

    Args:
        artifact: What to measure.
        point: The point that it was made for.
        work: Folder that keeps what is measured.
        seconds: Time measured.
        batch: Images per run.
        memory: Measure the peak memory, in a process of its own.
        again: Measure it though it was measured before, and keep nothing.
    """
    if again:
        return _measured(artifact, point, seconds, batch, memory, time.perf_counter())
    how = (*_made_by(), artifact.digest, point.digest, batch, seconds, memory, fingerprint_digest())
    return remembered(
        work / "timings" / f"{digest_of(*how)}.json",
        Timed,
        lambda: _measured(artifact, point, seconds, batch, memory, time.perf_counter()),
    )


def _measured(artifact: Artifact, point: Point, seconds: float, batch: int, memory: bool, started: float) -> Timed:
    try:
        report = bench(
            [artifact], batch=(batch,), backend=(point.backend,), seconds=seconds, threads=point.threads, noise=True,
            memory=memory, sessions=SESSIONS,
        )  # fmt: skip
    except _WRONG as error:
        return _failed(point, batch, f"{error.message} {error.hint}".strip(), started)
    [row] = report.rows
    if row.get("skipped"):
        return _failed(point, batch, str(row["skipped"]), started)
    [medians] = report.details["turn_medians_ms"].values()
    # The turns go round the sessions.
    sessions = [sum(medians[i:TURNS:SESSIONS]) / len(medians[i:TURNS:SESSIONS]) for i in range(SESSIONS)]
    latency, interval = _of_sessions(sessions)
    host = row.get("host_mb")
    return Timed(
        point=point.digest,
        machine=fingerprint_digest(),
        backend=str(row["backend"]),
        batch=batch,
        latency_ms=latency,
        interval_ms=interval,
        sessions_ms=tuple(sessions),
        p99_ms=float(row["p99_ms"] or math.nan),
        images_per_s=float(row["images_per_s"] or math.nan),
        size_mb=artifact.size_mb,
        memory_mb=None if host is None else float(host),
        seconds=time.perf_counter() - started,
        notes=tuple(report.notes),
    )


def _of_sessions(medians: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the geometric mean of the sessions' medians, and its 95 % interval."""
    # Disturbances multiply a latency, and no latency is below zero: its logarithm has the even spread.
    logarithms = [math.log(ms) for ms in medians]
    low, high = mean_interval(logarithms)
    return math.exp(sum(logarithms) / len(logarithms)), (math.exp(low), math.exp(high))


def _failed(point: Point, batch: int, reason: str, started: float) -> Timed:
    return Timed(
        point=point.digest, machine=fingerprint_digest(), backend=point.backend, batch=batch, problem=reason,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _network(point: Point, source: Artifact | None, classes: int, work: Path) -> Artifact:
    """Return the torch network of a point, pruned if it is to be."""
    from tlopt.stages.prune import prune

    if source is None:
        address = digest_of(*_made_by(), point.network.digest, point.image_size, classes)
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
        work / "networks" / digest_of(*_made_by(), source.digest, ratio),
        lambda place: prune(whole, place, force=True, ratio=ratio, criterion="magnitude", epochs=0),
    )


def _exported(point: Point, source: Artifact | None, classes: int, work: Path) -> Artifact:
    from tlopt.stages.export import export

    network = _network(point, source, classes, work)
    place = work / "graphs" / digest_of(*_made_by(), network.digest)
    return once(place, lambda out: export(network, out, force=True))


def _cast(point: Point, graph: Artifact, runtime: Runtime, work: Path) -> Artifact:
    precision = point.numbers
    how = (*_made_by(), graph.digest, precision, runtime)
    return once(
        work / "graphs" / digest_of(*how),
        lambda place: cast_graph(
            graph, place, force=True, precision=precision, runtime=runtime,
        ),
    )  # fmt: skip


def _built(graph: Artifact, work: Path) -> Artifact:
    from tlopt.stages.build import build

    return once(
        work / "engines" / digest_of(*_made_by(), graph.digest, fingerprint_digest()),
        lambda place: build(graph, place, force=True),
    )
