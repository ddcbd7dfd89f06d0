"""What is known of a search at a moment, and how much of its time is left."""

from __future__ import annotations

from dataclasses import dataclass

from tlopt.search.funnel import field, halving
from tlopt.search.funnel.asked import Asked, Contender, recovery_epochs
from tlopt.search.funnel.results import Results

LEAST_COMPRESSION, _MOST_COMPRESSION = 0.12, 0.35  # of all the time, kept for it when training ends
# Times what one variant took: one is made for sure, and the first of all took longer than others will.
_VARIANTS = 1.5


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is known, and how much time is left.

    Args:
        asked: The search.
        results: Of the steps that are done.
        left_s: Seconds until the answer has to be made.
        total_s: Seconds of the whole search.
        reserve_s: Seconds that are kept for the answer when the others are over.
    """

    asked: Asked
    results: Results
    left_s: float
    total_s: float
    reserve_s: float = 0.0

    @property
    def share_left(self) -> float:
        """Share of the time that is left."""
        return self.left_s / self.total_s

    @property
    def contenders(self) -> dict[str, Contender]:
        """The contenders by key."""
        return {one.key: one for one in self.asked.contenders}

    @property
    def compression_s(self) -> float:
        """About how long it takes to compress and to measure what is trained."""
        seconds, results = self.results.seconds, self.results
        each = [
            seconds.get(kind, 0.0) / len(done)
            for kind, done in (("make", results.made), ("measure", results.measured))
            if done
        ]
        known = _VARIANTS * sum(each) + self._pruning_s
        return min(_MOST_COMPRESSION * self.total_s, max(LEAST_COMPRESSION * self.total_s, known))

    @property
    def _pruning_s(self) -> float:
        """About how long the recovery of the leader takes, if it has to be pruned."""
        if self.results.plan is None:
            return 0.0
        leader = halving.leader(self.results.plan, self.results)
        standings = field.standings(self.asked, self.results)
        found = next((one for one in standings if one.contender.key == leader and one.width < 1), None)
        if found is None:
            return 0.0
        return halving.RECOVERY_COST * recovery_epochs(self.asked) * halving.epoch_s(self.asked, found, self.results)

    @property
    def _epoch_s(self) -> float:
        """About how long an epoch of training takes, by those that are done; 0 before the first."""
        done = sum(max(stops) for stops in self.results.trained.values())
        return self.results.seconds.get("train", 0.0) / done if done else 0.0

    def trains_on(self) -> bool:
        """Return whether there is time for another epoch, and then for compression."""
        return self.left_s > self.compression_s + self._epoch_s
