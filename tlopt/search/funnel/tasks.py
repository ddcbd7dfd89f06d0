"""What is to be done next: read off what is known, so that any number of workers agree on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from tlopt import backends
from tlopt.search.funnel import deciding, field, halving, proposing, smaller
from tlopt.search.funnel.asked import Contender
from tlopt.search.funnel.field import Standing
from tlopt.search.funnel.results import Trained
from tlopt.search.funnel.situation import Situation
from tlopt.search.funnel.variants import Base, Variant, bases, of_base, widths_to_time
from tlopt.search.space import Point

Place = Literal["measure", "train"]

MEASURING = ("time", "measure", "given", "again", "judge")  # kinds of steps that are done one at a time

_TIMING, _RANKING = 0.65, 0.5  # of the time must be left to go on with timing and with ranking
_ROOM = 0.95  # of the budget, at most, for an early answer that will stand when it is timed again
_EARLY = 3  # contenders whose classifier alone is trained, until an answer stands


@dataclass(frozen=True, kw_only=True)
class Task:
    """A step of the search.

    Args:
        key: Its kind, a slash, and what it is about.
        label: What a person calls it.
        place: Where it may be done: on the machine that the answer is for, or on any.
        point: What is timed.
        contender: What is ranked or trained.
        epochs: Where a training stops; 0 to finish it as it is.
        variant: What is made, measured or judged.
        artifacts: What is mixed.
        late: It may end after the time of the search: without it there would be no answer.
    """

    key: str
    label: str
    place: Place
    point: Point | None = None
    contender: Contender | None = None
    epochs: int = 0
    variant: Variant | None = None
    artifacts: tuple[str, ...] = ()
    late: bool = False

    @property
    def kind(self) -> str:
        """What kind of step it is."""
        return self.key.partition("/")[0]


def ready(now: Situation) -> list[Task]:
    """Return what can be done, the most urgent first; nothing if all is done, or waits for other workers."""
    if now.left_s <= 0:
        return last(now)
    return list(_open(now)) or list(_further(now)) or last(now)


def _open(now: Situation) -> Iterator[Task]:
    """Yield the tasks of the search itself."""
    asked, results = now.asked, now.results
    in_time = now.share_left > _TIMING and not results.settled
    survivors = [one for one in field.standings(asked, results, settled=not in_time) if one.survives]
    timing = field.next_points(asked, results) if in_time or not survivors else []
    for point in timing:
        yield time_task(point)
    if asked.kind == "images":
        ranking = list(_ranking(now, survivors))
        yield from ranking
        if timing or ranking:
            return
        if proposing.is_open(asked, results) and not results.settled and now.share_left > _RANKING:
            number = len(results.proposals)
            yield Task(key=f"propose/{number}", label="Choosing networks to look at", place="train")
            return
        if not survivors:
            return
        yield from _training(now, survivors)
    elif timing:
        return
    else:
        for one in now.contenders.values():
            if not results.done(f"given/{one.key}"):
                yield Task(key=f"given/{one.key}", label=f"Judging {one.label}", place="measure", contender=one)
                return
    yield from _compressing(now, {one.contender.key: one for one in survivors})


def time_task(point: Point) -> Task:
    """Return the task to time a point."""
    return Task(key=f"time/{point.digest}", label=f"Timing {point.label}", place="measure", point=point)


def _ranking(now: Situation, survivors: list[Standing]) -> Iterator[Task]:
    results = now.results
    if results.plan is not None or now.share_left <= _RANKING or (len(survivors) == 1 and not _more_to_come(now)):
        return
    for one in survivors:
        key = f"rank/{one.contender.key}"
        if not results.done(key):
            yield Task(key=key, label=f"Ranking {one.contender.label}", place="train", contender=one.contender)


def _more_to_come(now: Situation) -> bool:
    return now.share_left > _TIMING and bool(field.next_points(now.asked, now.results))


def _training(now: Situation, survivors: list[Standing]) -> Iterator[Task]:
    results = now.results
    if results.plan is None:
        if not results.done("plan"):
            yield Task(key="plan", label="Planning", place="train")
        return
    contenders, plan = now.contenders, results.plan
    for early in () if halving.finished(results) else _early(now, survivors, contenders[plan.contenders[0]]):
        if not results.done(f"first/{early.key}"):
            yield _first(early)
            return
        answer = list(_first_answer(now, survivors, early))
        yield from answer
        if answer or _answered(now):
            break
    if now.trains_on():
        for work in halving.next_work(plan, results, _proven(now, survivors)):
            one = contenders[work.contender]
            yield Task(
                key=f"train/{one.key}/{work.epochs}", place="train", contender=one, epochs=work.epochs,
                label=f"Training {one.label} to epoch {work.epochs} of {plan.epochs}",
            )  # fmt: skip
        yield from _mixing(now, survivors)
    elif not halving.finished(results) and any(results.trained.values()):
        one = contenders[halving.leader(plan, results)]
        if not results.done(f"train/{one.key}/0"):
            yield Task(key=f"train/{one.key}/0", label=f"Finishing {one.label}", place="train", contender=one)


def _further(now: Situation) -> Iterator[Task]:
    """Yield another planning, where all that was planned is done and the time does for more."""
    results = now.results
    if results.plan is None:
        return
    survivors = [one for one in field.standings(now.asked, results) if one.survives]
    if halving.extension(now.asked, survivors, results, now.left_s - now.compression_s) is not None:
        yield Task(key=f"plan/{len(results.plans)}", label="Planning further trainings", place="train")


def _early(now: Situation, survivors: list[Standing], best: Contender) -> list[Contender]:
    """Return whose classifier alone is trained for an early answer, each if the ones before it make none.

    They need no pruning. The first is the best by what is known, then come those that are sure to keep to the budget,
    the most promising before the others, then those with the most room in it. Where all have to be pruned, it is the
    best alone.
    """

    def room(standing: Standing) -> float:
        return now.asked.budget.excess(standing.best) if standing.best else math.inf

    whole = [one for one in survivors if one.width == 1]
    if not whole:
        return [best]
    first = [one for one in whole if one.contender.key == best.key]
    safe = halving.ordered([one for one in whole if halving.is_safe(now.asked, one)], now.results)
    each = dict.fromkeys(one.contender for one in [*first, *safe, *sorted(whole, key=room)])
    return list(each)[:_EARLY]


def _answered(now: Situation) -> bool:
    """Return whether something was measured that keeps to the budget, with room: it is timed once more in the end."""
    budget = now.asked.budget
    measured = [one.timed for one in now.results.measured.values()]
    return any(not budget.unmet(one) and budget.excess(one) <= _ROOM for one in measured)


def _first_answer(now: Situation, survivors: list[Standing], best: Contender) -> Iterator[Task]:
    """Yield what makes the first answer there is, so that one stands early."""
    found = now.results.first.get(best.key)
    standing = next((one for one in survivors if one.contender.key == best.key), None)
    if found is not None and found.artifact and standing is not None:
        if standing.width < 1:
            yield from map(time_task, widths_to_time(now.asked, now.results, standing))
        for variant in of_base(now.asked, now.results, standing, _early_base(best, found)):
            yield from _variant(now, variant)


def _early_base(early: Contender, found: Trained) -> Base:
    return Base(contender=early, artifact=found.artifact, accuracy=found.accuracy, what="first")


def _proven(now: Situation, survivors: list[Standing]) -> set[str]:
    """Return the contenders of which an early answer was measured that keeps to the budget."""
    found = set()
    for one in survivors:
        early = now.results.first.get(one.contender.key)
        base = _early_base(one.contender, early) if early is not None and early.artifact else None
        for variant in of_base(now.asked, now.results, one, base) if base else ():
            measured = now.results.measured.get(variant.key)
            if measured is not None and not now.asked.budget.unmet(measured.timed):
                found.add(one.contender.key)
    return found


def _mixing(now: Situation, survivors: list[Standing]) -> Iterator[Task]:
    """Yield the means of weights that can be tried: of the finished trainings of a network at several sizes."""
    plan, results, contenders = now.results.plan, now.results, now.contenders
    if plan is None or halving.next_work(plan, results, _proven(now, survivors)):
        return
    by_network: dict[str, list[str]] = {}
    for key, _ in halving.finished(results):
        by_network.setdefault(contenders[key].network.digest, []).append(key)
    for keys in by_network.values():
        first = contenders[keys[0]]
        if len(keys) > 1 and not results.done(f"mix/{first.key}"):
            artifacts = tuple(dict(halving.finished(results))[key].artifact for key in keys)
            yield Task(
                key=f"mix/{first.key}", label=f"Mixing the weights of {first.network.label}", place="train",
                contender=first, artifacts=artifacts,
            )  # fmt: skip


def _compressing(now: Situation, survivors: dict[str, Standing]) -> Iterator[Task]:
    """Yield what makes the variants: first of each network what needs no training, then what takes longer."""
    each = [
        (standing, of_base(now.asked, now.results, standing, base))
        for base in bases(now.asked, now.results, now.contenders)
        if (standing := survivors.get(base.contender.key)) is not None
        and not (base.what == "first" and halving.finished(now.results))
    ]
    whole = [one for standing, found in each if standing.width == 1 for one in found if one.is_quick]
    yield from (task for variant in whole for task in _variant(now, variant))
    for standing, found in each:
        if standing.width < 1:
            for point in widths_to_time(now.asked, now.results, standing):
                yield time_task(point)
        for variant in found:
            if variant not in whole:
                yield from _variant(now, variant)


def _variant(now: Situation, variant: Variant) -> Iterator[Task]:
    results = now.results
    make, measure = f"make/{variant.made_key}", f"measure/{variant.key}"
    if not results.done(make):
        yield Task(key=make, label=f"Making {variant.label}", place=_making_place(variant), variant=variant)
    elif variant.made_key in results.made and not results.done(measure):
        yield Task(key=measure, label=f"Measuring {variant.label}", place="measure", variant=variant)


def _made_in_time(now: Situation) -> Task | None:
    """Return the task to measure what had been made when the time ended; None if that may take too long.

    Before anything was measured, it is taken to last as long as timing an untrained network.
    """
    results = now.results
    steps = {"measure": len(results.measured), "time": len(results.timed)}
    each = next((results.seconds.get(kind, 0.0) / done for kind, done in steps.items() if done), math.inf)
    if each > now.reserve_s / 2 + now.left_s:
        return None
    survivors = {one.contender.key: one for one in field.standings(now.asked, results) if one.survives}
    open_ = [task for task in _compressing(now, survivors) if task.kind == "measure"]
    return open_[0] if open_ else None


def _way_out(now: Situation) -> Iterator[Task]:
    """Yield what makes an answer of a network with more room, where nothing that was measured keeps to the budget."""
    found = smaller.with_more_room(now)
    if found is None:
        return
    standing, variant = found
    if variant is None:
        yield _first(standing.contender)
    else:
        yield from _variant(now, variant)


def _first(early: Contender) -> Task:
    return Task(
        key=f"first/{early.key}", label=f"Training the classifier of {early.label}", place="train", contender=early
    )


def _making_place(variant: Variant) -> Place:
    """Return where a variant is made: an engine is one of the GPU that it is built on."""
    reads = backends.load(*variant.point.backend.partition(":")[::2]).READS
    return "measure" if "tensorrt" in reads else "train"


def last(now: Situation) -> list[Task]:
    """Return what is left to do for the answer: the file is timed once more, and judged on the test part once."""
    results = now.results
    if (waiting := _made_in_time(now)) is not None:
        return [waiting]
    chosen = deciding.decision(now).chosen
    if chosen is None:
        return [replace(task, late=True) for task in _way_out(now)]
    variant = chosen.variant
    if not results.done(f"again/{variant.key}"):
        return [Task(key=f"again/{variant.key}", label="Timing the answer once more", place="measure", variant=variant)]
    if now.asked.images.test and not results.done(f"judge/{variant.key}"):
        return [Task(key=f"judge/{variant.key}", label="Judging the answer", place="measure", variant=variant)]
    return []
