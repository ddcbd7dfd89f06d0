"""Several callers at once: threads or processes that run an artifact at the same time."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from tlopt.backends import call_of, open_call, open_runner
from tlopt.environment import cores
from tlopt.measure.candidates import Candidate
from tlopt.measure.speed.process import Process, parts
from tlopt.process import temporary
from tlopt.timing import STABLE, WARM_SECONDS, lap

Kind = Literal["threads", "processes"]
Run = Callable[[np.ndarray], object]


class Caller(Protocol):
    """One of several callers."""

    def prepare(self, batch: int) -> None:
        """Begin with one run that is not counted."""

    def ready(self) -> None:
        """Wait until that run is done."""

    def start(self, runs: int) -> None:
        """Begin with the runs that count."""

    def finish(self) -> tuple[np.ndarray, float, float]:
        """Wait for them; return what `timing.lap` returns."""

    def close(self) -> None:
        """End the caller."""


class _Thread:
    """A caller that is a thread. What it runs is opened and closed in that thread."""

    def __init__(self, opening: Callable[[], AbstractContextManager[Run]], pool: np.ndarray) -> None:
        self._jobs: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[np.ndarray, float, float] | BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(opening, pool), name="caller", daemon=True)
        self._thread.start()
        self._next()

    def _work(self, opening: Callable[[], AbstractContextManager[Run]], pool: np.ndarray) -> None:
        try:
            with opening() as run:
                self._done.put(None)
                inputs = parts(pool, 1)

                def call() -> None:
                    run(next(inputs))

                while (job := self._jobs.get()) is not None:
                    what, count = job
                    if what == "prepare":
                        inputs = parts(pool, count)
                        call()
                        self._done.put(None)
                    else:
                        self._done.put(lap(call, count))
        except BaseException as error:  # noqa: BLE001 - raised by the one who waits
            self._done.put(error)

    def _next(self) -> tuple[np.ndarray, float, float] | None:
        done = self._done.get()
        if isinstance(done, BaseException):
            raise done
        return done

    def prepare(self, batch: int) -> None:
        self._jobs.put(("prepare", batch))

    def ready(self) -> None:
        self._next()

    def start(self, runs: int) -> None:
        self._jobs.put(("runs", runs))

    def finish(self) -> tuple[np.ndarray, float, float]:
        found = self._next()
        assert found is not None
        return found

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()


@dataclass(frozen=True)
class Together:
    """Some callers that run batches of one size at once; can be timed in turns."""

    members: tuple[Caller, ...]
    batch: int

    @property
    def callers(self) -> int:
        """Their number."""
        return len(self.members)

    def warm(self) -> tuple[int, float]:
        """Run windows of five runs each until the medians of two lie within 5 %, 2 s at most."""
        made, medians, began = 0, [], time.perf_counter()
        while True:
            durations, _ = self.turn(5)
            made += len(durations) + self.callers
            medians.append(float(np.median(durations)))
            settled = len(medians) > 1 and abs(medians[-1] - medians[-2]) <= STABLE * medians[-2]
            if settled or time.perf_counter() - began > WARM_SECONDS:
                return made, medians[-1]

    def turn(self, runs: int) -> tuple[np.ndarray, float]:
        """Let every caller make some runs, after one that is not counted and that all wait for."""
        for one in self.members:
            one.prepare(self.batch)
        for one in self.members:
            one.ready()
        for one in self.members:
            one.start(runs)
        laps = [one.finish() for one in self.members]
        wall_s = max(ended for _, _, ended in laps) - min(began for _, began, _ in laps)
        return np.concatenate([durations for durations, _, _ in laps]), wall_s


@contextmanager
def open_callers(
    candidate: Candidate, pool: np.ndarray, *, streams: int, threads: int, kind: Kind
) -> Iterator[tuple[Caller, ...]]:
    """Open a candidate for several callers at once.

    Threads share one opened payload where the backend serves so many of them from it, as on a
    processor; otherwise each has its own, on a GPU with a stream of its own. Processes have cores
    of their own where there are enough.

    Args:
        candidate: What to run.
        pool: Its inputs.
        streams: Number of callers.
        threads: Processor threads of each; 0 for an equal share of the cores.
        kind: What the callers are.

    Raises:
        StageError: It cannot be opened so often.
    """
    artifact, backend = candidate.artifact, candidate.backend
    share = threads or max(1, cores() // streams)
    with ExitStack() as stack:
        found: list[Caller] = []
        if kind == "processes":
            folder = stack.enter_context(temporary.folder("bench"))
            np.save(folder / "pool.npy", pool)
            own = _cores_of_each(share, streams)
            for i in range(streams):
                child = Process(artifact, backend, threads=share, pool=folder / "pool.npy", cores=own[i])
                stack.callback(child.close)
                found.append(child)
        else:
            for opening in _openings(candidate, stack, streams=streams, threads=share):
                thread = _Thread(opening, pool)
                stack.callback(thread.close)
                found.append(thread)
        yield tuple(found)


def _openings(
    candidate: Candidate, stack: ExitStack, *, streams: int, threads: int
) -> list[Callable[[], AbstractContextManager[Run]]]:
    artifact, backend = candidate.artifact, candidate.backend
    runner = open_runner(artifact, backend, threads=threads * streams, callers=streams)
    if runner.callers >= streams:
        stack.enter_context(runner)
        return [lambda: nullcontext(call_of(runner, artifact))] * streams
    with runner:  # it serves one caller only
        return [lambda: open_call(artifact, backend, threads=threads)] * streams


def _cores_of_each(share: int, streams: int) -> list[list[int]]:
    """Return the cores of each process; empty lists, for all cores, where they are too few."""
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if share * streams > len(there):
        return [[] for _ in range(streams)]
    return [there[i * share : (i + 1) * share] for i in range(streams)]
