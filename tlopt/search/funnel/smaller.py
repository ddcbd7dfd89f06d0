"""A way out where all that was measured turned out to be over the budget: a network with more room, quickly."""

from __future__ import annotations

from tlopt.search.funnel import deciding, field, halving
from tlopt.search.funnel.field import Standing
from tlopt.search.funnel.situation import Situation
from tlopt.search.funnel.variants import Variant, bases, of_base

ROOM = 0.95  # of the budget, at most, for what was timed untrained and slowed down as the others were
LATE = 0.08  # of the whole time that an answer may be late, if there would be none


def with_more_room(now: Situation) -> tuple[Standing, Variant | None] | None:
    """Return the most promising contender that should still keep to the budget; None if there is none, or no time.

    With it comes what is made of it, None before its classifier is trained.

    The machine may have become slower since the networks were timed untrained, or the networks are slower trained. Each
    of the others is taken to be as much slower as the worst of those that were measured.
    """
    finalists = deciding.finalists(now)
    over = [one for one in finalists if now.asked.budget.unmet(one.measured.timed)]
    if now.asked.kind != "images" or not finalists or len(over) < len(finalists):
        return None  # nothing is known, or it is not the budget that is missed
    slower = max((_slower(now, one.variant.point.digest, one.measured.timed.latency_ms) for one in over), default=1.0)
    tried = {one.variant.base.contender.key for one in finalists}
    standings = [one for one in field.standings(now.asked, now.results, settled=True) if one.survives]
    for standing in halving.ordered([one for one in standings if one.width == 1], now.results):
        if standing.contender.key in tried or standing.best is None or _failed(now, standing):
            continue
        if slower * now.asked.budget.excess(standing.best) <= ROOM:
            variant = _variant(now, standing)
            return (standing, variant) if _in_time(now, variant) else None
    return None


def _variant(now: Situation, standing: Standing) -> Variant | None:
    own = [base for base in bases(now.asked, now.results, now.contenders) if base.contender == standing.contender]
    found = of_base(now.asked, now.results, standing, own[0]) if own else []
    return found[0] if found else None


def _slower(now: Situation, point: str, latency_ms: float) -> float:
    """Return how much slower than untrained something is, at least 1."""
    untrained = now.results.timed.get(point)
    return max(1.0, latency_ms / untrained.latency_ms) if untrained else 1.0


def _failed(now: Situation, standing: Standing) -> bool:
    return f"first/{standing.contender.key}" in now.results.problems


def _in_time(now: Situation, variant: Variant | None) -> bool:
    """Return whether the classifier is trained alone, and the network made and measured, before it is too late.

    Args:
        now: What is known.
        variant: What is made; None before the classifier is trained.
    """
    results = now.results
    steps = {"measure": len(results.measured)}
    if variant is None or variant.made_key not in results.made:
        steps["make"] = len(results.made)
    if variant is None:
        steps["first"] = len(results.first)
    each = {kind: results.seconds.get(kind, 0.0) / done for kind, done in steps.items() if done}
    unknown = max(each.values(), default=0.0)
    return sum(each.get(kind, unknown) for kind in steps) <= now.left_s + now.reserve_s / 2 + LATE * now.total_s
