"""How much time there is, where it went, and an end to whatever takes longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from tlopt.errors import TloptError
from tlopt.progress import Bar, Display, display


class TimeIsUpError(TloptError):
    """The time of the search is over; what was being made is dropped, and its checkpoint stands."""


@dataclass
class Clock:
    """The time of a search.

    Args:
        minutes: How long it may take in all.
        before_s: What earlier runs of the same search took.
        reserve_s: Kept back for the answer: its latency is measured again, and it is judged.
        now: Seconds that only go on; another one for tests.
    """

    minutes: float
    before_s: float = 0.0
    reserve_s: float = 0.0
    now: Callable[[], float] = time.monotonic
    worked_s: dict[str, float] = field(default_factory=dict)
    waited_s: float = 0.0
    _began: float = 0.0

    def __post_init__(self) -> None:
        self._began = self.now()

    @property
    def run_s(self) -> float:
        """Seconds since this run began."""
        return self.now() - self._began

    @property
    def spent_s(self) -> float:
        """Seconds that all runs of the search took."""
        return self.before_s + self.run_s

    @property
    def left_s(self) -> float:
        """Seconds until the answer has to be made."""
        return self.minutes * 60 - self.spent_s - self.reserve_s

    @property
    def overhead_s(self) -> float:
        """Seconds of this run that were neither work nor waiting for other workers."""
        return max(0.0, self.run_s - sum(self.worked_s.values()) - self.waited_s)

    @contextmanager
    def working(self, kind: str) -> Iterator[None]:
        """Count the time of the block as work of a kind."""
        began = self.now()
        try:
            yield
        finally:
            self.worked_s[kind] = self.worked_s.get(kind, 0.0) + self.now() - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for other workers."""
        began = self.now()
        try:
            yield
        finally:
            self.waited_s += self.now() - began

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the block when the time is up, at the next step of whatever shows its progress.

        Raises:
            TimeIsUpError: It is.
        """
        token = display.set(_Ending(display.get(), self))
        try:
            yield
        finally:
            display.reset(token)


@dataclass(frozen=True)
class _Ending:
    """A display of progress that looks at the clock."""

    shown: Display
    clock: Clock

    def __call__(self, label: str, total: int) -> AbstractContextManager[Bar]:
        return self._opened(label, total)

    @contextmanager
    def _opened(self, label: str, total: int) -> Iterator[Bar]:
        with self.shown(label, total) as bar:
            yield _Watched(bar, self.clock)


@dataclass(frozen=True)
class _Watched:
    bar: Bar
    clock: Clock

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on, and look at the clock.

        Raises:
            TimeIsUpError: The time is up.
        """
        self.bar.advance(steps, note)
        if self.clock.left_s <= 0:
            raise TimeIsUpError("The time of the search is over.")
