"""What a classifier may cost, and what it must be worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tlopt.errors import SettingError
from tlopt.settings import MOST_IN_BATCH, Setting

if TYPE_CHECKING:
    from tlopt.search.timed import Timed

_GROUP = "Budget"
_LIMITS = ("latency_ms", "latency_p99_ms", "throughput", "size_mb", "memory_mb")
_NOISE_PER_LIMIT = 0.02  # of a 99th percentile or a peak of memory: what two measurements of one file differ by


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits that a classifier has to keep to, and the accuracy that it must have."""

    latency_ms: Annotated[
        float | None, Setting("Largest median time of a run, in ms.", minimum=0, group=_GROUP, common=True)
    ] = None
    latency_p99_ms: Annotated[
        float | None, Setting("Largest time that 99 of 100 runs may take, in ms.", minimum=0, group=_GROUP)
    ] = None
    batch: Annotated[int, Setting("Images per run.", minimum=1, maximum=MOST_IN_BATCH, group=_GROUP)] = 1
    throughput: Annotated[
        float | None, Setting("Smallest number of images per second of a single caller.", minimum=0, group=_GROUP)
    ] = None
    size_mb: Annotated[float | None, Setting("Largest size of the network's file, in MB.", minimum=0, group=_GROUP)] = (
        None
    )
    memory_mb: Annotated[
        float | None,
        Setting("Largest peak memory of the process that runs the network, in MB.", minimum=0, group=_GROUP),
    ] = None
    min_accuracy: Annotated[
        float | None,
        Setting("Smallest accuracy on the validation images.", minimum=0, maximum=1, group=_GROUP),
    ] = None
    max_drop: Annotated[
        float | None,
        Setting(
            "Largest loss of validation accuracy against the best network of the search, or against the artifact.",
            minimum=0, maximum=1, group=_GROUP,
        ),
    ] = None  # fmt: skip

    def check(self) -> None:
        """Refuse a budget that says nothing or contradicts itself.

        Raises:
            SettingError: It does.
        """
        given = {name: value for name in _LIMITS if (value := getattr(self, name)) is not None}
        for name, value in given.items():
            if value <= 0:
                raise SettingError(f"{name} must be above 0, got {value:g}.", hint="Nothing keeps to such a limit.")
        if not given:
            raise SettingError("A search needs a limit of time, size or memory.", hint="Add --latency-ms 5, for one.")
        if self.min_accuracy is not None and self.max_drop is not None:
            raise SettingError(
                "min_accuracy and max_drop both say which accuracy is enough.", hint="Leave one of them out."
            )
        if self.latency_ms is not None and self.latency_p99_ms is not None and self.latency_p99_ms < self.latency_ms:
            raise SettingError(
                f"latency_p99_ms {self.latency_p99_ms:g} contradicts latency_ms {self.latency_ms:g}: the median of "
                "runs is never above their 99th percentile.",
                hint="Leave --latency-ms out, or raise --latency-p99-ms.",
            )
        if self.latency_ms is not None and self.throughput is not None and self._implied_ms() < self.latency_ms:
            raise SettingError(
                f"throughput {self.throughput:g} contradicts latency_ms {self.latency_ms:g}: a run of {self.batch} "
                f"may take {self._implied_ms():.3g} ms then.",
                hint="Leave --latency-ms or --throughput out.",
            )

    def _implied_ms(self) -> float:
        """Return the longest run that keeps up with the throughput, in ms."""
        return math.inf if self.throughput is None else self.batch * 1e3 / self.throughput

    @property
    def limit_ms(self) -> float:
        """The longest median run, in ms; infinite without a limit of time."""
        limits = (self.latency_ms, self._implied_ms(), self.latency_p99_ms)
        return min(limit for limit in limits if limit is not None)

    @property
    def needs_memory(self) -> bool:
        """Whether the memory has to be measured."""
        return self.memory_mb is not None

    def over(self, timed: Timed) -> str:
        """Return what a network exceeds beyond noise, as the rest of a sentence; empty if nothing."""
        if timed.problem:
            return timed.problem
        low = timed.interval_ms[0]
        if low > self.limit_ms:
            return f"{timed.latency_ms:.3g} ms, over {self.limit_ms:.3g} ms"
        if self.latency_p99_ms is not None and timed.p99_ms * (1 - _NOISE_PER_LIMIT) > self.latency_p99_ms:
            return f"{timed.p99_ms:.3g} ms for 99 of 100 runs, over {self.latency_p99_ms:.3g} ms"
        return self._too_large(timed, 1 - _NOISE_PER_LIMIT)

    def unmet(self, timed: Timed) -> str:
        """Return which limit a network does not keep to beyond noise, as the rest of a sentence; empty if none."""
        if timed.problem:
            return timed.problem
        high = timed.interval_ms[1]
        if not high <= self.limit_ms:
            return f"{timed.latency_ms:.3g} ms, with noise {high:.3g} ms"
        if self.latency_p99_ms is not None and not timed.p99_ms * (1 + _NOISE_PER_LIMIT) <= self.latency_p99_ms:
            return f"{timed.p99_ms:.3g} ms for 99 of 100 runs"
        return self._too_large(timed, 1 + _NOISE_PER_LIMIT)

    def in_doubt(self, timed: Timed) -> bool:
        """Whether a network is fast enough as measured, and only its noise says that it may not be."""
        return not self.over(timed) and timed.latency_ms <= self.limit_ms < timed.interval_ms[1]

    def _too_large(self, timed: Timed, noise: float) -> str:
        if self.size_mb is not None and timed.size_mb > self.size_mb:  # a file has no noise
            return f"{timed.size_mb:.3g} MB, over {self.size_mb:.3g} MB"
        if self.memory_mb is not None and timed.memory_mb is None:
            return "its memory could not be measured"
        if self.memory_mb is not None and timed.memory_mb is not None and timed.memory_mb * noise > self.memory_mb:
            return f"{timed.memory_mb:.4g} MB of memory, over {self.memory_mb:.4g} MB"
        return ""

    def excess(self, timed: Timed) -> float:
        """Return how many times the tightest limit a network takes; 1 or less keeps to all of them."""
        shares = [timed.latency_ms / self.limit_ms]
        if self.latency_p99_ms is not None:
            shares.append(timed.p99_ms / self.latency_p99_ms)
        if self.size_mb is not None:
            shares.append(timed.size_mb / self.size_mb)
        if self.memory_mb is not None and timed.memory_mb is not None:
            shares.append(timed.memory_mb / self.memory_mb)
        return max(shares)

    def told(self) -> str:
        """Return the budget in words."""
        parts = []
        if self.latency_ms is not None:
            parts.append(f"{self.latency_ms:g} ms a run")
        if self.latency_p99_ms is not None:
            parts.append(f"{self.latency_p99_ms:g} ms for 99 of 100 runs")
        if self.throughput is not None:
            parts.append(f"{self.throughput:g} images/s")
        if self.size_mb is not None:
            parts.append(f"{self.size_mb:g} MB")
        if self.memory_mb is not None:
            parts.append(f"{self.memory_mb:g} MB of memory")
        if self.min_accuracy is not None:
            parts.append(f"{100 * self.min_accuracy:g} % right at least")
        if self.max_drop is not None:
            parts.append(f"{100 * self.max_drop:g} points less accurate at most")
        return ", ".join(parts) + (f", {self.batch} images a run" if self.batch > 1 else "")
