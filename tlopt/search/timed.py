"""How fast a point of the space is on this machine: measured once, and kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlopt.artifact import Artifact
from tlopt.errors import ArtifactError, CheckError, MissingLibraryError, PluginError, StageError
from tlopt.measure.bench import TURNS, bench
from tlopt.measure.statistics import mean_interval
from tlopt.search.machine import fingerprint_digest
from tlopt.search.once import digest_of, remembered
from tlopt.search.space import Point
from tlopt.search.untrained import made_by, untrained

SESSIONS = 5  # times that each candidate is opened; where its memory comes to lie makes one faster than another
_WRONG = (ArtifactError, CheckError, MissingLibraryError, PluginError, StageError)


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
    how = (*made_by(), point.digest, classes, batch, seconds, memory, fingerprint_digest())

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
    how = (*made_by(), artifact.digest, point.digest, batch, seconds, memory, fingerprint_digest())
    return remembered(
        work / "timings" / f"{digest_of(*how)}.json",
        Timed,
        lambda: _measured(artifact, point, seconds, batch, memory, time.perf_counter()),
    )


def _measured(artifact: Artifact, point: Point, seconds: float, batch: int, memory: bool, started: float) -> Timed:
    try:
        report = bench(
            [artifact], batch=(batch,), backend=(point.backend,), seconds=seconds, threads=point.threads, noise=True,
            memory=memory, sessions=SESSIONS, names=(point.classifier,),
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
