"""Who can still win: each contender's best case against the budget, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tlopt.search.funnel.asked import Asked, Contender
from tlopt.search.funnel.proposing import in_play
from tlopt.search.funnel.results import Results
from tlopt.search.space import Point
from tlopt.search.timed import Timed


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a contender stands after it was timed.

    Args:
        contender: The contender.
        pending: Points that have to be timed before more can be said.
        dropped: Why it cannot win, as the rest of a sentence; empty if it can.
        width: The largest share of the multiply-adds at which it may keep to the budget.
        best: The fastest of what was timed; None if nothing ran.
        whole_ms: Latency of a run in fp32, or of the fastest if that was not timed; 0 if nothing ran.
    """

    contender: Contender
    pending: tuple[Point, ...] = ()
    dropped: str = ""
    width: float = 1.0
    best: Timed | None = None
    whole_ms: float = 0.0

    @property
    def survives(self) -> bool:
        """Whether it was timed and may win."""
        return not self.pending and not self.dropped


def standings(asked: Asked, results: Results, *, settled: bool = False) -> list[Standing]:
    """Return how each contender stands, in the order of the space.

    A network that is over the budget at one size is not timed at larger ones. One that does not run at a size is.

    Args:
        asked: The search.
        results: What is known.
        settled: No more is timed: what was timed has to do. So it is from the plan on.
    """
    settled = settled or results.settled
    found: dict[str, Standing] = {}
    contenders = in_play(asked, results)
    networks = dict.fromkeys(one.network for one in contenders)
    for network in networks:
        sizes = sorted((one for one in contenders if one.network == network), key=lambda one: one.image_size)
        over: Standing | None = None
        waits = False
        for one in sizes:
            if over is not None:
                why = f"over the budget at {over.contender.image_size} px already"
                found[one.key] = Standing(contender=one, dropped=why)
                continue
            if waits:
                found[one.key] = Standing(contender=one, pending=tuple(asked.points(one)))
                continue
            found[one.key] = standing = _standing(asked, results, one, settled=settled)
            waits = bool(standing.pending)
            if standing.dropped and standing.best is not None:  # it ran
                over = standing
    return [found[one.key] for one in contenders]


def next_points(asked: Asked, results: Results) -> list[Point]:
    """Return the points to time next, the smallest size of each network first."""
    turns: dict[str, list[Standing]] = {}
    for standing in standings(asked, results):
        if standing.pending:
            turns.setdefault(standing.contender.network.digest, []).append(standing)
    # Only the first of a network is known to be worth timing.
    first = [min(waiting, key=lambda one: one.contender.image_size) for waiting in turns.values()]
    return [point for standing in first for point in standing.pending]


def _standing(asked: Asked, results: Results, one: Contender, *, settled: bool) -> Standing:
    whole = asked.points(one)
    pending = _pending(results, whole)
    if pending and not (settled and within(asked, results, whole)):
        return Standing(contender=one, pending=pending)
    best = _fastest(results, whole)
    full = _fastest(results, [point for point in whole if point.precision == "fp32"]) or best
    whole_ms = full.latency_ms if full else 0.0
    why = _why_over(asked, results, whole)
    if not why:
        return Standing(contender=one, best=best, whole_ms=whole_ms)
    if not asked.prunes or best is None:
        return Standing(contender=one, dropped=why, best=best)
    narrow = kin(asked, one, best, asked.narrowest)
    if pending := _pending(results, narrow):
        return Standing(contender=one, pending=pending, best=best)
    if over := _why_over(asked, results, narrow):
        why = f"{over}, pruned to {100 * asked.narrowest:.0f} %"
        return Standing(contender=one, dropped=why, best=_fastest(results, narrow) or best)
    return Standing(contender=one, width=asked.narrowest, best=best, whole_ms=whole_ms)


def kin(asked: Asked, one: Contender, best: Timed, width: float) -> list[Point]:
    """Return the points of a width that differ from the contender's fastest whole one by the width alone."""
    own = next(point for point in asked.points(one) if point.digest == best.point)
    wanted = (own.precision, own.backend, own.threads)
    return [point for point in asked.points(one, width) if (point.precision, point.backend, point.threads) == wanted]


def _pending(results: Results, points: list[Point]) -> tuple[Point, ...]:
    return tuple(point for point in points if not results.done(f"time/{point.digest}"))


def _timed(results: Results, points: list[Point]) -> Iterator[Timed]:
    for point in points:
        if (timed := results.timed.get(point.digest)) is not None:
            yield timed


def _fastest(results: Results, points: list[Point]) -> Timed | None:
    return min(_timed(results, points), key=lambda timed: timed.latency_ms, default=None)


def _why_over(asked: Asked, results: Results, points: list[Point]) -> str:
    """Return why none of some points can keep to the budget; empty if one may."""
    timed = list(_timed(results, points))
    if not timed:
        problems = [results.problems.get(f"time/{point.digest}", "") for point in points]
        return next((problem for problem in problems if problem), "nothing here runs it")
    reasons = [(asked.budget.excess(one), asked.budget.over(one)) for one in timed]
    return "" if any(not why for _, why in reasons) else min(reasons)[1]


def within(asked: Asked, results: Results, points: list[Point]) -> list[Point]:
    """Return the points that may keep to the budget, as far as they were timed, the fastest first."""
    fitting = [
        (timed.latency_ms, point)
        for point in points
        if (timed := results.timed.get(point.digest)) is not None and not asked.budget.over(timed)
    ]
    return [point for _, point in sorted(fitting, key=lambda pair: pair[0])]


def key_of(point: Point) -> str:
    """Return the key of the contender that a point is of."""
    return Contender(network=point.network, image_size=point.image_size).key
