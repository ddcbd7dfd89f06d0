"""The lines of the bench's table: each a candidate, opened, with so many callers at once."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlopt.backends import GpuClock, Runner, call_of
from tlopt.backends._answers import check_answer
from tlopt.errors import ArtifactError, MissingLibraryError, StageError
from tlopt.measure.candidates import Candidate, compare, on_gpu, opened, running, said
from tlopt.measure.speed.callers import Kind, Together, open_callers
from tlopt.measure.speed.feeds import Inputs
from tlopt.measure.speed.process import Process, parts
from tlopt.process import temporary
from tlopt.progress import track
from tlopt.reports import Scalar
from tlopt.timing import Alone, Rotating, Timed

log = logging.getLogger(__name__)

_GPU_RUNS = 30  # runs whose GPU time is read
_GPU_WARM_S = 0.2  # shortest warm-up on a GPU, trtexec's default: its clocks take a while to rise

# Batch -> peak on the host, held on the GPU; 10^6 bytes.
Memory = Mapping[int, tuple[float | None, float | None]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A candidate and how many call it at once; one row of the table per batch.

    Attributes:
        label: The artifact's name.
        candidate: What runs.
        backend: Backend and device, as the runner calls itself.
        streams: Callers at once.
        timed: What to time, by batch.
        runner: The runner if there is one caller.
        first_ms: From opening to the first answer, if there is one caller.
        memory: What it needs, if that was measured.
    """

    label: str
    candidate: Candidate
    backend: str
    streams: int
    timed: Callable[[int], Timed]
    runner: Runner | None = None
    first_ms: float | None = None
    memory: Memory = field(default_factory=dict)

    def identity(self) -> dict[str, Scalar]:
        """Return the columns that say what the line is about."""
        return identity(self.label, self.candidate, self.backend)

    def at(self, batch: int) -> Timed:
        """Return the line's runs of a batch, as something to time."""
        return _Guarded(self.timed(batch), self)

    def from_disk(self, batch: int, inputs: Inputs, workers: Executor) -> Timed:
        """Return the way from the files on disk to the logits, as something to time."""
        artifact = self.candidate.artifact
        assert self.runner is not None
        run, read = call_of(self.runner, artifact), inputs.from_disk(artifact, batch, workers)
        return _Guarded(Alone(lambda: run(read())), self)

    def once(self, batch: int) -> dict[str, Scalar]:
        """Return what was measured once, before the runs; nothing for several callers."""
        if self.runner is None:
            return {}
        host, device = self.memory.get(batch, (None, None))
        found: dict[str, Scalar] = {"open_and_first_ms": self.first_ms}
        found |= {"host_mb": host} if host is not None else {}
        found |= {"device_mb": device} if device is not None else {}
        return found

    def gpu_ms(self, batch: int, inputs: Inputs) -> dict[str, Scalar]:
        """Return the median GPU time of a run by the GPU's own clock, where the runner reports it."""
        clock: object = self.runner
        if self.runner is None or not isinstance(clock, GpuClock):
            return {}
        if batch > self.candidate.artifact.card.engine.profile.max_batch:  # a larger batch runs in pieces
            return {}
        pool, run = parts(inputs.of(self.candidate.artifact), batch), call_of(self.runner, self.candidate.artifact)
        found = []
        for _ in range(_GPU_RUNS):
            run(next(pool))
            found.append(clock.gpu_times_ms())
        alone, with_copies = np.median(np.array(found), axis=0).tolist()
        return {"gpu_ms": alone, "gpu_with_copies_ms": with_copies}


@dataclass(frozen=True)
class _Guarded:
    """Something to time whose failures say what failed where."""

    timed: Timed
    line: Line

    @property
    def callers(self) -> int:
        return self.timed.callers

    def warm(self) -> tuple[int, float]:
        with running(self.line.candidate.artifact, self.line.backend):
            return self.timed.warm()

    def turn(self, runs: int) -> tuple[np.ndarray, float]:
        with running(self.line.candidate.artifact, self.line.backend):
            return self.timed.turn(runs)


def identity(label: str, candidate: Candidate, backend: str) -> dict[str, Scalar]:
    """Return the columns that say what a row is about."""
    return {"artifact": label, "precision": candidate.artifact.card.precision, "backend": backend}


def counted(candidates: int) -> str:
    """Return how many candidates were measured, in words for a title."""
    return {0: "nothing could run", 1: "1 candidate"}.get(candidates, f"{candidates} candidates")


def not_run(skipped: Iterable[Mapping[str, Scalar]], *, named: bool, ran: bool) -> tuple[str, ...]:
    """Return which of the skipped rows the user must not miss, a sentence each.

    Args:
        skipped: Rows that say why something does not run here.
        named: Whether the user named the backends; the usual ones may be missing.
        ran: Whether anything ran.
    """
    if ran and not named:
        return ()
    return tuple(f"{row['artifact']} could not run on {row['backend']}: {row['skipped']}" for row in skipped)


def measure_memory(tried: Sequence[Candidate], inputs: Inputs, batch: Iterable[int], threads: int) -> dict[int, Memory]:
    """Return the memory of each candidate by its place in the list.

    Each is opened and run in a process of its own. One that does not open there is left out: it
    will not open here either, and the table says why.
    """
    found: dict[int, Memory] = {}
    with temporary.folder("bench") as folder:
        pool = folder / "pool.npy"
        for place, one in enumerate(track(tried, label="Measuring memory", total=len(tried))):
            if one.problem:
                continue
            np.save(pool, inputs.of(one.artifact))
            try:
                with Process(one.artifact, one.backend, threads=threads, pool=pool) as child:
                    found[place] = child.memory_mb(sorted(batch))
            except StageError as error:
                log.info("the memory was not measured: %s", error.message)
    return found


@dataclass
class Lines:
    """The lines that could be opened, and why the others could not.

    Attributes:
        opened: In the order of the candidates.
        skipped: Rows that say why something does not run here.
        conditions: Runner -> how it was opened.
    """

    opened: list[Line] = field(default_factory=list)
    skipped: list[dict[str, Scalar]] = field(default_factory=list)
    conditions: dict[str, Any] = field(default_factory=dict)


def open_lines(
    stack: ExitStack, tried: Sequence[tuple[str, Candidate]], inputs: Inputs, *,
    streams: tuple[int, ...], callers: Kind, threads: int, memory: Mapping[int, Memory], sessions: int = 1,
) -> Lines:  # fmt: skip
    """Open each candidate for each number of callers, `sessions` times for a single one; the stack closes them.

    Raises:
        StageError: A candidate opens, but not `sessions` times.
    """
    lines = Lines()
    for place, (label, one) in enumerate(tried):
        compare(one, threads=threads)
        clock = time.perf_counter()
        runner = stack.enter_context(opened(one, threads=threads))
        if isinstance(runner, str):
            lines.skipped.append({**identity(label, one, one.backend), "skipped": runner})
            continue
        opening = time.perf_counter() - clock
        pool = inputs.of(one.artifact)
        clock = time.perf_counter()
        try:
            with running(one.artifact, runner.name):
                run = call_of(runner, one.artifact)
                answer = run(np.ascontiguousarray(pool[:1]))
        except StageError as error:  # the others can still be measured
            lines.skipped.append({**identity(label, one, runner.name), "skipped": said(error)})
            continue
        first_ms = (opening + time.perf_counter() - clock) * 1e3
        check_answer(answer, one.artifact, runner.name)
        lines.conditions[runner.name] = dict(runner.conditions)
        at_least_s = _GPU_WARM_S if on_gpu(one.backend) else 0.0
        for number in streams:
            if number == 1:
                runners = _several(stack, label, one, runner, sessions=sessions, threads=threads)
                line = Line(
                    label=label, candidate=one, backend=runner.name, streams=1,
                    timed=_alone([call_of(each, one.artifact) for each in runners], pool, at_least_s=at_least_s),
                    runner=runner, first_ms=first_ms, memory=memory.get(place, {}),
                )  # fmt: skip
            else:
                try:
                    members = stack.enter_context(
                        open_callers(one, pool, streams=number, threads=threads, kind=callers)
                    )
                except (StageError, MissingLibraryError, ArtifactError) as error:
                    lines.skipped.append({**identity(label, one, runner.name), "skipped": said(error)})
                    continue
                line = Line(label=label, candidate=one, backend=runner.name, streams=number, timed=_together(members))
            lines.opened.append(line)
    return lines


def _several(
    stack: ExitStack, label: str, one: Candidate, first: Runner, *, sessions: int, threads: int
) -> list[Runner]:
    """Return `first` and as many other sessions of a candidate as make `sessions`."""
    runners = [first]
    while len(runners) < sessions:
        runner = stack.enter_context(opened(one, threads=threads))
        if isinstance(runner, str):
            raise StageError(
                f"{label} cannot be opened {sessions} times on {first.name}: {runner}", hint="Try fewer --sessions."
            )
        runners.append(runner)
    return runners


def _alone(
    runs: Sequence[Callable[[np.ndarray], object]], pool: np.ndarray, *, at_least_s: float
) -> Callable[[int], Timed]:
    def timed(batch: int) -> Timed:
        source = parts(pool, batch)
        return Rotating([functools.partial(_run, run, source) for run in runs], at_least_s=at_least_s)

    return timed


def _run(run: Callable[[np.ndarray], object], source: Iterator[np.ndarray]) -> object:
    return run(next(source))


def _together(members: tuple[Any, ...]) -> Callable[[int], Timed]:
    return lambda batch: Together(members, batch)
