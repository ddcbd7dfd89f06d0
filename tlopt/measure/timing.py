"""Timing calls side by side, so that whatever disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

WARM_SECONDS = 2.0  # longest warm-up of one call
_STABLE = 0.05  # two windows of runs this close: warm


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a call took.

    Args:
        rounds: One array per turn, float64: each run's duration, milliseconds. No run is dropped.
        warm_up: Runs made before, not counted here.
    """

    rounds: tuple[np.ndarray, ...] = field(repr=False)
    warm_up: int

    @property
    def runs_ms(self) -> np.ndarray:
        """All runs in order, milliseconds."""
        return np.concatenate(self.rounds)

    @property
    def mean_ms(self) -> float:
        """Arithmetic mean."""
        return float(self.runs_ms.mean())

    @property
    def stderr_ms(self) -> float:
        """Standard error of the mean, from the spread of the turns.

        Runs of one turn share their disturbances; counted singly, they would look surer than
        they are.
        """
        if len(self.rounds) < 2:
            return float("nan")
        means = np.array([turn.mean() for turn in self.rounds])
        return float(means.std(ddof=1) / np.sqrt(len(means)))

    @property
    def medians_ms(self) -> np.ndarray:
        """Median of each turn, milliseconds."""
        return np.array([np.median(turn) for turn in self.rounds])

    def quantile_ms(self, share: float) -> float:
        """Return the duration that this share of the runs stays within."""
        return float(np.quantile(self.runs_ms, share))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Python's garbage collector from running inside the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def warm(call: Callable[[], object], *, seconds: float = WARM_SECONDS) -> tuple[int, float]:
    """Run a call until its duration no longer falls.

    It is warm when the medians of the last two windows of five runs lie within 5 % of each other,
    or when the time is up.

    Returns:
        The runs made, and the median duration of the last five, milliseconds.
    """
    durations: list[float] = []
    began = time.perf_counter()
    while True:
        started = time.perf_counter()
        call()
        now = time.perf_counter()
        durations.append(now - started)
        if now - began > seconds and len(durations) >= 3:
            break
        if len(durations) >= 10:
            old, new = np.median(durations[-10:-5]), np.median(durations[-5:])
            if abs(new - old) <= _STABLE * old:
                break
    return len(durations), float(np.median(durations[-5:])) * 1e3


def turn(call: Callable[[], object], runs: int) -> np.ndarray:
    """Run a call some times and return each run's duration, milliseconds.

    One run before is not counted: another candidate has just had the caches.
    """
    call()
    clock = time.perf_counter_ns
    durations = [0] * runs
    for i in range(runs):
        started = clock()
        call()
        durations[i] = clock() - started
    return np.array(durations, np.float64) / 1e6


def side_by_side(
    calls: Sequence[Callable[[], object]],
    *,
    seconds: float,
    turns: int = 10,
    seed: int = 0,
    after_turn: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time some calls in turns, each round in another order.

    Args:
        calls: What to time.
        seconds: Measured time per call.
        turns: Rounds; each call runs for about ``seconds / turns`` in each. The number of runs is
            the same in all of them: a turn that stopped at a slow run would weigh it too heavily.
        seed: Seed of the orders.
        after_turn: Called after each turn, for a progress bar.
    """
    shuffled = random.Random(seed)
    order = list(range(len(calls)))
    rounds: list[list[np.ndarray]] = [[] for _ in calls]
    with quiet():
        warmed = [warm(call) for call in calls]
        runs = [max(1, round(seconds / turns * 1e3 / typical_ms)) for _, typical_ms in warmed]
        for _ in range(turns):
            shuffled.shuffle(order)
            for i in order:
                rounds[i].append(turn(calls[i], runs[i]))
                after_turn()
    return [Timing(rounds=tuple(found), warm_up=made) for found, (made, _) in zip(rounds, warmed, strict=True)]


def machine_state() -> Mapping[str, float | None]:
    """Return what tells whether the machine was left alone: load, clock, stolen time."""
    return {"load_1min": _load(), "clock_mhz": _clock(), "stolen_s": _stolen()}


def _load() -> float | None:
    try:
        return float(Path("/proc/loadavg").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _clock() -> float | None:
    """Return the cores' mean clock frequency, MHz."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    except (OSError, ValueError):
        return None
    return round(sum(found) / len(found), 1) if found else None


def _stolen() -> float | None:
    """Return the seconds that a hypervisor has given to others since the start of the machine."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        return int(fields[8]) / 100
    except (OSError, ValueError, IndexError):
        return None
