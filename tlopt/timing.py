"""Timing calls side by side, so that whatever disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

WARM_SECONDS = 2.0  # longest warm-up of one call
STABLE = 0.05  # two windows of runs this close: warm


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the turns of a call took in energy, their uncounted first runs included.

    Args:
        joules: Part of the machine ("cpu", "gpu") -> energy; empty where none can be read.
        seconds: Duration of the turns.
        runs: Runs made in them.
    """

    joules: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    runs: int = 0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a call took.

    Args:
        rounds: One array per turn, float64: each run's duration, milliseconds. No run is dropped.
        warm_up: Runs made before, not counted here.
        walls_s: Per turn: from the start of its first counted run to the end of its last one.
        spent: The energy of all turns.
    """

    rounds: tuple[np.ndarray, ...] = field(repr=False)
    warm_up: int
    walls_s: tuple[float, ...] = field(repr=False)
    spent: Spent = field(default_factory=Spent)

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

    @property
    def runs_per_s(self) -> float:
        """All runs over the time that all callers together took for them."""
        return len(self.runs_ms) / sum(self.walls_s)

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


def warm(call: Callable[[], object], *, seconds: float = WARM_SECONDS, at_least: float = 0.0) -> tuple[int, float]:
    """Run a call until its duration no longer falls.

    It is warm when the medians of the last two windows of five runs lie within 5 % of each other,
    or when the time is up.

    Args:
        call: What to run.
        seconds: Longest warm-up.
        at_least: Shortest warm-up, seconds: a GPU's clocks take a while to rise.

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
        if len(durations) >= 10 and now - began >= at_least:
            old, new = np.median(durations[-10:-5]), np.median(durations[-5:])
            if abs(new - old) <= STABLE * old:
                break
    return len(durations), float(np.median(durations[-5:])) * 1e3


def lap(call: Callable[[], object], runs: int) -> tuple[np.ndarray, float, float]:
    """Run a call some times.

    Returns:
        Each run's duration, milliseconds; when the first began and the last ended, by
        `time.perf_counter`, seconds.
    """
    clock = time.perf_counter_ns
    durations = [0] * runs
    began = clock()
    for i in range(runs):
        started = clock()
        call()
        durations[i] = clock() - started
    ended = clock()
    return np.array(durations, np.float64) / 1e6, began / 1e9, ended / 1e9


def turn(call: Callable[[], object], runs: int) -> np.ndarray:
    """Run a call some times and return each run's duration, milliseconds.

    One run before is not counted: another candidate has just had the caches.
    """
    call()
    return lap(call, runs)[0]


class Timed(Protocol):
    """What can be timed in turns."""

    @property
    def callers(self) -> int:
        """Callers at once; each makes one uncounted run per turn."""

    def warm(self) -> tuple[int, float]:
        """Run until the duration no longer falls; see `warm`."""

    def turn(self, runs: int) -> tuple[np.ndarray, float]:
        """Make some runs per caller; return their durations (ms) and the wall-clock of all (s)."""


@dataclass(frozen=True)
class Alone:
    """One caller, one run after the other."""

    call: Callable[[], object]
    callers: int = 1
    warm_s: float = WARM_SECONDS
    at_least_s: float = 0.0

    def warm(self) -> tuple[int, float]:
        """Run until the duration no longer falls."""
        return warm(self.call, seconds=self.warm_s, at_least=self.at_least_s)

    def turn(self, runs: int) -> tuple[np.ndarray, float]:
        """Make some runs, after one that is not counted."""
        self.call()
        durations, began, ended = lap(self.call, runs)
        return durations, ended - began


class Rotating:
    """One caller that takes one session after the other, a turn each.

    Where its memory comes to lie makes a session faster or slower for as long as it lives: turns of
    one session agree on a figure that another session of the same network would not give.

    Args:
        calls: A call of each session.
        at_least_s: Shortest warm-up of each, seconds.
    """

    callers = 1

    def __init__(self, calls: Sequence[Callable[[], object]], *, at_least_s: float = 0.0) -> None:
        self._sessions = [Alone(call, at_least_s=at_least_s) for call in calls]
        self._next = itertools.cycle(self._sessions)

    def warm(self) -> tuple[int, float]:
        """Run each session until its duration no longer falls."""
        made, typical_ms = zip(*(session.warm() for session in self._sessions), strict=True)
        return sum(made), float(np.median(typical_ms))

    def turn(self, runs: int) -> tuple[np.ndarray, float]:
        """Make some runs of the next session."""
        return next(self._next).turn(runs)


def _unread() -> Mapping[str, float]:
    return {}


def in_turns(
    timed: Sequence[Timed],
    *,
    seconds: float,
    turns: int = 10,
    seed: int = 0,
    energy: Callable[[], Mapping[str, float]] = _unread,
    after_turn: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time some things in turns, each round in another order.

    Args:
        timed: What to time.
        seconds: Measured time of each.
        turns: Rounds; each is run for about ``seconds / turns`` in every one. The number of runs is
            the same in all of them: a turn that stopped at a slow run would weigh it too heavily.
        seed: Seed of the orders.
        energy: Reads the energy used so far, joules by part; read before and after each turn.
        after_turn: Called after each turn, for a progress bar.
    """
    shuffled = random.Random(seed)
    order = list(range(len(timed)))
    rounds: list[list[np.ndarray]] = [[] for _ in timed]
    walls: list[list[float]] = [[] for _ in timed]
    spent = [Spent() for _ in timed]
    with quiet():
        warmed = [one.warm() for one in timed]
        runs = [max(1, round(seconds / turns * 1e3 / typical_ms)) for _, typical_ms in warmed]
        for _ in range(turns):
            shuffled.shuffle(order)
            for i in order:
                before, began = energy(), time.perf_counter()
                durations, wall = timed[i].turn(runs[i])
                elapsed, after = time.perf_counter() - began, energy()
                rounds[i].append(durations)
                walls[i].append(wall)
                spent[i] = Spent(
                    joules={part: spent[i].joules.get(part, 0.0) + after[part] - before[part] for part in after},
                    seconds=spent[i].seconds + elapsed,
                    runs=spent[i].runs + len(durations) + timed[i].callers,
                )
                after_turn()
    return [
        Timing(rounds=tuple(rounds[i]), warm_up=made, walls_s=tuple(walls[i]), spent=spent[i])
        for i, (made, _) in enumerate(warmed)
    ]


def side_by_side(
    calls: Sequence[Callable[[], object]],
    *,
    seconds: float,
    turns: int = 10,
    seed: int = 0,
    after_turn: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time some calls in turns, one caller each; see `in_turns`."""
    return in_turns([Alone(call) for call in calls], seconds=seconds, turns=turns, seed=seed, after_turn=after_turn)


def medians_ms(
    calls: Sequence[Callable[[], object]], *, seconds: float, turns: int, warm_s: float = WARM_SECONDS
) -> list[float]:
    """Time some calls in turns, as `side_by_side` does, and return the median run of each, milliseconds.

    Args:
        calls: What to time, one caller each.
        seconds: Measured time of each.
        turns: Turns of each; no turn has less than one counted run.
        warm_s: Longest warm-up of each.
    """
    timings = in_turns([Alone(call, warm_s=warm_s) for call in calls], seconds=seconds, turns=turns)
    return [timing.quantile_ms(0.5) for timing in timings]
