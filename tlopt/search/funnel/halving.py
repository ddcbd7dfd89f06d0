"""Which contenders are trained and how long: successive halving, with epochs as the rung.

K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", arXiv 1502.07943.
All trainings have the schedule of a whole one, so that those that stay go on as if nothing had stopped them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tlopt.search.funnel.asked import Asked, recovery_epochs
from tlopt.search.funnel.field import Standing
from tlopt.search.funnel.results import Plan, Results, Trained

MOST = 6  # contenders that are trained: the order by frozen features is good enough for the others to be worse
_FEWEST = 3  # epochs of a training, if a search allows so many
_FINAL = 2  # of them that are trained to the end, if there are so many
# What a training step takes for an image, and what comes before the first: times an fp32 run of one on the runtime,
# and times what its features took in the ranking. Measured on EfficientNet-Lite0 and MobileNetV2 at 96 to 192 px.
_STEP_COST, _START_COST = 14.0, 4.5
_RANKED_STEP_COST, _RANKED_START_COST = 4.0, 1.3
RECOVERY_COST = 1.5  # times an epoch of training: the unpruned network answers, too
_SAFE = 0.9  # of the budget, at most, for a contender that was timed untrained to count as sure to keep to it
_FASTEST = 0.5  # share of the expected time, at least, that a training is planned with after a faster one
_SHARE = 0.65  # of the time that is left, to be spent on training


@dataclass(frozen=True, kw_only=True)
class Work:
    """A part of a training.

    Args:
        contender: Key of the contender.
        epochs: Where it stops.
        last: Whether the training is over then.
    """

    contender: str
    epochs: int
    last: bool


def ordered(survivors: Sequence[Standing], results: Results) -> list[Standing]:
    """Return contenders that may win, the most promising first; those without a score come last.

    The loss of the regression counts, not its accuracy: of a few hundred images, only those on the edge of being right
    tell two accuracies apart, and every image counts in a loss.
    """

    def promise(standing: Standing) -> tuple[float, float]:
        score = results.scores.get(standing.contender.key)
        return (score.loss, -score.accuracy) if score else (math.inf, 0.0)

    return sorted(survivors, key=promise)


def epoch_s(asked: Asked, standing: Standing, results: Results) -> float:
    """Return about how long an epoch of a contender takes, seconds.

    The ranking ran the network in torch. Features that were read from the cache took no time: then, and where nothing
    was ranked, the runtime's latency is all that is known.
    """
    each_s = max(_STEP_COST * _run_s(asked, standing), _RANKED_STEP_COST * _features_s(standing, results))
    return each_s * (asked.images.train + asked.images.val / 3)


def _start_s(asked: Asked, standing: Standing, results: Results) -> float:
    """Return about how long a training takes before its first epoch, seconds: its classifier is trained alone."""
    each_s = max(_START_COST * _run_s(asked, standing), _RANKED_START_COST * _features_s(standing, results))
    return each_s * (asked.images.train + asked.images.val)


def _run_s(asked: Asked, standing: Standing) -> float:
    return standing.whole_ms / asked.budget.batch / 1e3


def _features_s(standing: Standing, results: Results) -> float:
    """Return how long the features of an image took, seconds; 0 if nothing was ranked."""
    score = results.scores.get(standing.contender.key)
    return score.seconds / score.images if score and score.images else 0.0


def plan(asked: Asked, survivors: Sequence[Standing], results: Results, left_s: float) -> Plan:
    """Return the plan that the time allows: rather more contenders than longer trainings, but three epochs at least.

    Where the time is enough for a single one, that is one that needs no pruning, if there is any.
    """
    best = _with_a_safe_one(asked, ordered(survivors, results))
    return _planned(asked, best[:MOST], results, _SHARE * max(0.0, left_s))


def extension(asked: Asked, survivors: Sequence[Standing], results: Results, left_s: float) -> Plan | None:
    """Return a plan for contenders that were left out for want of time; None if none may win, or it would take longer.

    Args:
        asked: The search.
        survivors: Contenders that may keep to the budget.
        results: What is known.
        left_s: Seconds that may be spent on training.
    """
    planned = {key for one in results.plans for key in one.contenders}
    most = max((one.accuracy for key, one in results.scores.items() if key in planned), default=0.0)
    rest = [
        one for one in ordered(survivors, results)
        if one.contender.key not in planned and _promises(one, results) >= most
    ]  # fmt: skip
    count = min(len(rest), MOST - len(planned))
    if count < 1 or left_s <= 0:
        return None
    found = _planned(asked, rest[:count], results, left_s / pace(asked, survivors, results))
    return found if found.epochs >= min(_FEWEST, asked.epochs) else None


def pace(asked: Asked, survivors: Sequence[Standing], results: Results) -> float:
    """Return what the trainings so far took, as a share of what was expected of them; 1 before the first."""
    expected = took = 0.0
    for one in survivors:
        if (reach := reached(one.contender.key, results)) is not None:
            expected += _start_s(asked, one, results) + reach.epochs * epoch_s(asked, one, results)
            took += results.trained_s.get(one.contender.key, 0.0)
    return max(_FASTEST, took / expected) if took and expected else 1.0


def _promises(standing: Standing, results: Results) -> float:
    """Return the accuracy on frozen features that a contender may have, but for chance."""
    score = results.scores.get(standing.contender.key)
    return score.interval[1] if score else 0.0


def _planned(asked: Asked, best: Sequence[Standing], results: Results, allowed_s: float) -> Plan:
    for count in range(len(best), 1, -1):
        for epochs in range(asked.epochs, min(_FEWEST, asked.epochs) - 1, -1):
            if _cost(asked, best[:count], results, rungs(epochs, count)) <= allowed_s:
                return _made(asked, best[:count], epochs)
    alone = _surest(asked, best)
    epochs = next((n for n in range(asked.epochs, 1, -1) if _cost(asked, [alone], results, (n,)) <= allowed_s), 1)
    return _made(asked, [alone], epochs)


def _surest(asked: Asked, best: Sequence[Standing]) -> Standing:
    """Return the first of some contenders that is sure to keep to the budget, or else that may do so whole, or any."""
    safe = (one for one in best if is_safe(asked, one))
    whole = (one for one in best if one.width == 1)
    return next(safe, None) or next(whole, best[0])


def is_safe(asked: Asked, standing: Standing) -> bool:
    """Return whether a contender is sure to keep to the budget whole, by what was timed untrained."""
    return standing.width == 1 and standing.best is not None and asked.budget.excess(standing.best) <= _SAFE


def _with_a_safe_one(asked: Asked, best: Sequence[Standing]) -> list[Standing]:
    """Return contenders with one among the first two that is sure to keep to the budget whole, if there is one.

    What pruning costs in accuracy is not known yet: a network that is good before it may be the worse one after it.
    One near the budget may be over it when it is trained: its values are others then, and so is the machine's state.
    """
    first = next((one for one in best if is_safe(asked, one)), None)
    if first is None or first in best[:2]:
        return list(best)
    others = [one for one in best if one is not first]
    return [*others[:1], first, *others[1:]]


def _made(asked: Asked, chosen: Sequence[Standing], epochs: int) -> Plan:
    return Plan(
        contenders=tuple(one.contender.key for one in chosen), epochs=epochs, rungs=rungs(epochs, len(chosen)),
        safe=tuple(one.contender.key for one in chosen if is_safe(asked, one)),
    )  # fmt: skip


def rungs(epochs: int, count: int) -> tuple[int, ...]:
    """Return the epochs after which the weaker half of so many contenders stops."""
    found = [epochs]
    while count > _FINAL and found[0] > 1:
        found.insert(0, max(1, found[0] // 2))
        count = kept(count)
    return tuple(found)


def kept(count: int) -> int:
    """Return how many of some contenders go on after a rung."""
    return min(count, max(_FINAL, math.ceil(count / 2)))


def _cost(asked: Asked, chosen: Sequence[Standing], results: Results, stops: Sequence[int]) -> float:
    """Return about how long it takes to train some contenders, and to train those again that have to be pruned."""
    epochs = [epoch_s(asked, one, results) for one in chosen]
    total = sum(_start_s(asked, one, results) for one in chosen)
    before, count = 0, len(chosen)
    for stop in stops:
        total += sum(epochs[:count]) * (stop - before)
        before, last, count = stop, count, kept(count)
    pruned = [cost for one, cost in zip(chosen[:last], epochs[:last], strict=True) if one.width < 1]
    return total + RECOVERY_COST * recovery_epochs(asked) * sum(pruned)


def next_work(plan: Plan, results: Results, proven: Collection[str] = ()) -> list[Work]:
    """Return the parts of trainings that can be done now; none if all are done, or wait for others.

    Args:
        plan: Which contenders are trained, and how long.
        results: What is known.
        proven: Contenders of which an early answer was measured that keeps to the budget: they are as good as safe.
    """
    running, safe = list(plan.contenders), {*plan.safe, *proven}
    for stop in plan.rungs:
        last = stop == plan.rungs[-1]
        open_ = [key for key in running if not results.done(f"train/{key}/{stop}")]
        if open_:
            # If time runs out, what is sure to keep to the budget is worth more than what may turn out to be over it.
            first = sorted(open_, key=lambda key: key not in safe) if last else open_
            return [Work(contender=key, epochs=stop, last=last) for key in first]
        running = survivors_of(running, stop, results, safe)
    return []


def survivors_of(running: Sequence[str], stop: int, results: Results, safe: Collection[str] = ()) -> list[str]:
    """Return which contenders go on after a rung, the better first; one of the safe stays among them."""
    reached = [(key, trained) for key in running if (trained := results.trained.get(key, {}).get(stop)) is not None]
    best = sorted(reached, key=lambda pair: rank(pair[1]))
    keys = [key for key, _ in best]
    going_on, others = keys[: kept(len(running))], keys[kept(len(running)) :]
    if len(going_on) > 1 and not set(going_on) & set(safe):
        going_on = going_on[:-1] + ([key for key in others if key in safe][:1] or going_on[-1:])
    return going_on


def rank(trained: Trained) -> tuple[float, float]:
    """Return what sorts trainings, the better first."""
    return -trained.accuracy, trained.loss


def reached(key: str, results: Results) -> Trained | None:
    """Return how far a contender's training came."""
    stops = results.trained.get(key, {})
    return stops[max(stops)] if stops else None


def finished(results: Results) -> list[tuple[str, Trained]]:
    """Return contender -> its finished training, the better first."""
    whole = [(key, one) for key, stops in results.trained.items() for one in stops.values() if one.artifact]
    return sorted(whole, key=lambda pair: rank(pair[1]))


def leader(plan: Plan, results: Results) -> str:
    """Return the contender that looks best so far."""
    so_far = [(key, one) for key in plan.contenders if (one := reached(key, results)) is not None]
    # One that came further is told apart by more than its accuracy: compare those of the last rung reached.
    furthest = max((one.epochs for _, one in so_far), default=0)
    return min(
        ((rank(one), key) for key, one in so_far if one.epochs == furthest), default=((0, 0), plan.contenders[0])
    )[1]
