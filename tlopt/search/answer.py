"""The report of a search: everything that was tried, what it cost, and the decision in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tlopt.artifact import Artifact
from tlopt.cards.card import CARD_NAME, plain
from tlopt.environment import cores, processor, versions, waiting
from tlopt.measure.statistics import wilson
from tlopt.publishing import write_whole
from tlopt.reports import Point, Report, Scalar, page
from tlopt.search.funnel import deciding, field, halving
from tlopt.search.funnel.asked import Contender
from tlopt.search.funnel.clock import Clock
from tlopt.search.funnel.decision import Decision, Finalist, unmet
from tlopt.search.funnel.field import Standing
from tlopt.search.funnel.situation import Situation
from tlopt.search.outcome import COSTS
from tlopt.search.study.folder import BEST, PAGE, REPORT

_STEPS = {
    "time": "timing untrained networks",
    "rank": "ranking by frozen features",
    "first": "training a classifier alone",
    "train": "training",
    "mix": "mixing weights",
    "make": "compressing",
    "measure": "measuring what was compressed",
    "given": "judging the artifact",
    "again": "timing the answer once more",
    "judge": "judging the answer",
}


def report_of(now: Situation, clock: Clock, where: str, machine: Mapping[str, Any], *, so_far: bool = False) -> Report:
    """Return the report of what is known.

    Args:
        now: What is known.
        clock: Where the time went.
        where: The study, as it may be shown.
        machine: What the latencies were measured on.
        so_far: The search goes on.
    """
    asked, results = now.asked, now.results
    decision = deciding.decision(now)
    finalists = deciding.finalists(now)
    standings = field.standings(asked, results)
    rows = [*_measured_rows(now, finalists, decision), *_other_rows(now, standings, finalists)]
    costs = _costs(now, clock)
    return Report(
        title=_title(decision, so_far=so_far),
        rows=tuple(rows),
        notes=tuple(_notes(now, decision, clock)),
        breaches=() if decision.chosen is not None else decision.words[:1],
        conditions={
            "budget": asked.budget.told(),
            "images": f"{asked.images.path}: {asked.images.train} to train, {asked.images.val} to decide, "
            f"{asked.images.test} to judge",
            "minutes": clock.minutes,
            "study": where,
            "machine": dict(machine),
            "processor": processor(),
            "cores": cores(),
            "openmp": waiting(),
            "versions": versions(),
        },
        details={
            "costs": [dict(row) for row in costs],
            "overhead": clock.overhead_s / max(clock.run_s, 1e-9),
            "decision": list(decision.words),
            "timed": _timed_rows(now),
            "plans": [plain(one) for one in results.plans],
            "left_out": dict(asked.left_out),
            "failed": dict(results.problems),
        },
        more=(Report(title=COSTS, rows=tuple(costs)),) if costs else (),
    )


def _title(decision: Decision, *, so_far: bool) -> str:
    if decision.chosen is None:
        return ("No answer" if decision.undecided else "Nothing keeps to the budget") + " so far" * so_far
    return f"{'Best so far' if so_far else 'The answer'}: {decision.chosen.variant.label}"


def _measured_rows(now: Situation, finalists: Sequence[Finalist], decision: Decision) -> list[dict[str, Scalar]]:
    reference = deciding.reference(now)
    found: list[dict[str, Scalar]] = []
    for one in finalists:
        why = deciding.failed_again(now, one) or unmet(now.asked, one, reference)
        is_chosen = decision.chosen is not None and one.variant.key == decision.chosen.variant.key
        outcome = "the answer" if is_chosen else f"over: {why}" if why else "keeps to the budget"
        low, high = wilson(one.measured.hits, one.measured.images)
        timed = one.measured.timed
        found.append(
            {
                **_who(one.variant.base.contender), "precision": one.variant.point.precision,
                "latency_ms": timed.latency_ms, "accuracy": one.measured.accuracy, "low": low, "high": high,
                "size_mb": timed.size_mb, "p99_ms": timed.p99_ms if now.asked.budget.latency_p99_ms else None,
                "memory_mb": timed.memory_mb, "made": one.variant.how,
                "backend": timed.backend if len(now.asked.space.backends) > 1 else "", "outcome": outcome,
            }
        )  # fmt: skip
    return sorted(found, key=lambda row: (row["outcome"] != "the answer", -float(row["accuracy"] or 0)))


def _who(one: Contender) -> dict[str, Scalar]:
    return {"network": one.network.label, "px": one.image_size}


def _other_rows(
    now: Situation, standings: Sequence[Standing], finalists: Sequence[Finalist]
) -> Iterator[dict[str, Scalar]]:
    """Yield a row for each contender that no variant was made of, with how far it came."""
    through = {one.variant.base.contender.key for one in finalists}
    for standing in standings:
        one = standing.contender
        if one.key in through:
            continue
        yield {
            **_who(one), "precision": None, "latency_ms": standing.best.latency_ms if standing.best else None,
            "size_mb": standing.best.size_mb if standing.best else None, "outcome": _how_far(now, standing),
        }  # fmt: skip


def _how_far(now: Situation, standing: Standing) -> str:
    results, key = now.results, standing.contender.key
    if standing.dropped:
        return f"dropped: {standing.dropped}"
    if standing.pending:
        return "not timed: there was no time"
    if problem := next((why for step, why in results.problems.items() if key in step), ""):
        return f"failed: {problem}"
    trained = halving.reached(key, results)
    plan = next((one for one in results.plans if key in one.contenders), None)
    if trained is not None and plan is not None:
        return f"trained to epoch {trained.epochs} of {plan.epochs}: {trained.accuracy:.1%} right"
    if (score := results.scores.get(key)) is not None:
        return f"ranked: {score.accuracy:.1%} right, not trained"
    return "timed, and not ranked"


def _timed_rows(now: Situation) -> list[dict[str, Any]]:
    """Return every point that was timed, or could not be."""
    found = []
    for point in now.asked.space.points():
        timed = now.results.timed.get(point.digest)
        problem = now.results.problems.get(f"time/{point.digest}", "")
        if timed is not None:
            found.append({"point": point.label, **plain(timed)})
        elif problem:
            found.append({"point": point.label, "problem": problem})
    return found


def _costs(now: Situation, clock: Clock) -> list[dict[str, Scalar]]:
    seconds = now.results.seconds
    counts = {kind: sum(key.partition("/")[0] == kind for key in now.results.steps) for kind in _STEPS}
    rows: list[dict[str, Scalar]] = [
        {"step": words, "times": counts[kind], "seconds": seconds[kind]}
        for kind, words in _STEPS.items()
        if kind in seconds
    ]
    if rows:
        rows.append({"step": "the search itself, in this run", "times": None, "seconds": clock.overhead_s})
    return rows


def _notes(now: Situation, decision: Decision, clock: Clock) -> Iterator[str]:
    yield from decision.words
    if decision.chosen is not None:
        judged = now.results.judged.get(decision.chosen.variant.key)
        if judged is not None:
            low, high = wilson(judged.hits, judged.images)
            yield (
                f"On {judged.images} test images, which decided nothing, {judged.hits / judged.images:.1%} are right "
                f"(95 % interval {low:.1%} to {high:.1%})."
            )
        elif not now.asked.images.test:
            yield "There are no test images, so the answer is not judged on images that decided nothing."
        again = now.results.again.get(decision.chosen.variant.key)
        yield from (f"When the answer was timed: {note}" for note in (again.notes if again else ()))
        least = now.asked.budget.min_accuracy
        measured = decision.chosen.measured
        if least is not None and wilson(measured.hits, measured.images)[0] < least:
            yield f"With {measured.images} validation images, chance alone may have brought it above {least:.1%}."
    if now.left_s <= 0:
        yield (
            f"The {clock.minutes:g} minutes were over before everything was tried. "
            "More --minutes, with --force or another --out, may find better."
        )
    for name, why in now.asked.left_out.items():
        yield f"Left out: {name}. {why}"
    failed = [why for key, why in now.results.problems.items() if not key.startswith("time/")]
    if failed:
        yield f"{len(failed)} steps failed, the first with: {failed[0]}"


def write(out: Path, report: Report, now: Situation) -> None:
    """Write the report, and the page with its picture."""
    write_whole(out / REPORT, report.to_json())
    best = [Artifact.load(out / BEST)] if (out / BEST / CARD_NAME).exists() and not report.breaches else []
    limit = now.asked.budget.limit_ms
    text = page(report, points=_points(now), artifacts=best, limit_ms=limit if math.isfinite(limit) else None)
    write_whole(out / PAGE, text, errors="replace")


def _points(now: Situation) -> list[Point]:
    """Return what the picture shows: measured variants, and every network that went no further, set aside."""
    found = []
    for one in deciding.finalists(now):
        variant, measured = one.variant, one.measured
        low, high = wilson(measured.hits, measured.images)
        found.append(
            Point(
                label=_short(variant.base.contender.label, variant.point.precision, variant.point.width),
                precision=variant.point.precision, runtime=variant.point.backend.partition(":")[0],
                latency_ms=measured.timed.latency_ms, accuracy=measured.accuracy, low=low, high=high,
            )
        )  # fmt: skip
    if not found:
        return []
    for point in now.asked.space.points():
        timed = now.results.timed.get(point.digest)
        if timed is not None:
            score = now.results.scores.get(field.key_of(point))
            low, high = score.interval if score else (math.nan, math.nan)
            found.append(
                Point(
                    label="", precision=point.precision, runtime=point.backend.partition(":")[0],
                    latency_ms=timed.latency_ms, accuracy=score.accuracy if score else math.nan, low=low, high=high,
                    aside=True,
                )
            )  # fmt: skip
    return found


def _short(label: str, precision: str, width: float) -> str:
    narrow = f" {100 * width:.0f} %" if width < 1 else ""
    return f"{Path(label.partition(':')[2] or label).name}{narrow} {precision}"
