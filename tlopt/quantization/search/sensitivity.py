"""Which blocks of a network stay float: the fewest that keep the accuracy, and what each costs in time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tlopt import judging
from tlopt.cards.details import BlockAlone, TradeOff
from tlopt.progress import bar

log = logging.getLogger(__name__)

_LOOKED_AT = 3  # blocks that are tried at each step of the search
_FREE = 0.002  # share of the latency below which two timings differ by chance


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What was measured of the network with some blocks left float.

    Args:
        floats: Names of these blocks.
        drop: Loss of accuracy, or share of other labels where the right ones are not known.
        flips: Share of labels that differ from the float network's.
        noise: Mean squared error of the logits over their mean square.
        latency_ms: Batch -> milliseconds; empty if it could not be timed.
    """

    floats: tuple[str, ...]
    drop: float
    flips: float
    noise: float
    latency_ms: Mapping[int, float] = field(default_factory=dict)

    @property
    def snr_db(self) -> float:
        """Signal to noise of the logits, decibels."""
        return judging.decibels(self.noise)

    def slowdown(self, other: Trial | Mapping[int, float]) -> float:
        """Return how much longer this takes than another, as a logarithm: the mean over the batches."""
        of = other.latency_ms if isinstance(other, Trial) else other
        ratios = [math.log(self.latency_ms[batch] / of[batch]) for batch in self.latency_ms if batch in of]
        return sum(ratios) / len(ratios) if ratios else 0.0


@dataclass(frozen=True, kw_only=True)
class Search:
    """The outcome.

    Args:
        chosen: What was kept: the least drop found if none is within the limit.
        met: Whether it is within the limit.
        tried: All that was measured, the network without float blocks first.
    """

    chosen: Trial
    met: bool
    tried: Sequence[Trial]

    @property
    def trade_off(self) -> list[Trial]:
        """The best trial of each number of float blocks, and what was kept."""
        best: dict[int, Trial] = {}
        for trial in sorted(self.tried, key=lambda t: (t is not self.chosen, t.drop, t.noise)):
            best.setdefault(len(trial.floats), trial)
        return [best[count] for count in sorted(best)]

    def account(self) -> tuple[dict[str, str], tuple[TradeOff, ...], dict[str, BlockAlone]]:
        """Return what stayed float and why, the trade-off, and each block's own share, for the card."""
        start = self.tried[0]
        alone: dict[str, BlockAlone] = {}
        for trial in self.tried:
            if len(trial.floats) == 1:
                cost = math.expm1(trial.slowdown(start)) if trial.latency_ms else None
                alone[trial.floats[0]] = BlockAlone(
                    gain_db=round(trial.snr_db - start.snr_db, 2), latency=cost if cost is None else round(cost, 4)
                )
        reasons = {}
        for name in self.chosen.floats:
            gain, cost = alone[name].gain_db, alone[name].latency
            time = "not timed" if cost is None else f"{100 * cost:+.1f} % of the latency"
            reasons[name] = f"alone in float: {gain:+.1f} dB, {time}"
        rows = tuple(
            TradeOff(
                float_blocks=trial.floats,
                drop=round(trial.drop, 4),
                flips=round(trial.flips, 4),
                snr_db=round(trial.snr_db, 2),
                latency_ms={str(batch): round(ms, 3) for batch, ms in trial.latency_ms.items()},
            )
            for trial in self.trade_off
        )
        return reasons, rows, alone


def search(
    names: Sequence[str],
    measure: Callable[[tuple[str, ...]], Trial],
    limit: float,
    source_ms: Mapping[int, float],
) -> Search:
    """Find the fewest blocks that have to stay float for the drop to be within a limit.

    Each block is measured alone in float. Then blocks are added one by one: of those that take away at
    least half as much of the error as the best the one that takes away most for the time it costs,
    until a set is within the limit; of several that are, the fastest. Blocks that turn out not to be
    needed go back to integers. A set that is no faster than the float network does not count.

    Args:
        names: Of all blocks.
        measure: Quantizes all blocks but the given ones, and measures the result.
        limit: Largest drop.
        source_ms: Batch -> milliseconds of the float network; empty if it could not be timed.
    """
    tried: dict[frozenset[str], Trial] = {}

    def of(*floats: str) -> Trial:
        if (key := frozenset(floats)) not in tried:
            tried[key] = measure(floats)
        return tried[key]

    now = start = of()
    gains: dict[str, float] = {}
    while now.drop > limit:
        if not gains:
            with bar("Measuring blocks", len(names)) as shown:
                for name in names:
                    gains[name] = of(name).snr_db - start.snr_db
                    shown.advance(note=f"{name}: {gains[name]:+.1f} dB")
        left = sorted((n for n in names if n not in now.floats), key=lambda n: -gains[n])
        tries = [of(*now.floats, name) for name in (left[:_LOOKED_AT] if now.floats else left)]
        tries = [t for t in tries if t.noise < now.noise and (not source_ms or t.slowdown(source_ms) < 0)]
        if not tries:
            break
        if within := [t for t in tries if t.drop <= limit]:
            now = min(within, key=lambda t: (t.slowdown(start), t.noise))
        else:
            most = max(now.noise - t.noise for t in tries)
            now = max((t for t in tries if now.noise - t.noise >= most / 2), key=lambda t: _worth(now, t, start))
        log.info("float: %s; drop %.4f, %.1f dB", ", ".join(now.floats), now.drop, now.snr_db)
    if now.drop <= limit:
        for name in now.floats[:-1]:  # the one added last is needed
            less = of(*(n for n in now.floats if n != name))
            now = less if less.drop <= limit else now
        return Search(chosen=now, met=True, tried=list(tried.values()))
    useful = [t for t in tried.values() if t is start or not source_ms or t.slowdown(source_ms) < 0]
    best = min(useful, key=lambda t: (t.drop, len(t.floats), t.noise))
    return Search(chosen=best, met=False, tried=list(tried.values()))


def _worth(before: Trial, after: Trial, start: Trial) -> float:
    """Return how much of the error goes for each share of the time that it costs."""
    cost = after.slowdown(start) - before.slowdown(start)
    return (before.noise - after.noise) / max(cost, _FREE)
