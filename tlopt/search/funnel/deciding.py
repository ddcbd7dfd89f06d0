"""What was measured so far, and what it would come to: the finalists of a search, and the decision among them."""

from __future__ import annotations

from dataclasses import replace

from tlopt.search.funnel import field
from tlopt.search.funnel.decision import Decision, Finalist, decide
from tlopt.search.funnel.expectation import expectations
from tlopt.search.funnel.situation import Situation
from tlopt.search.funnel.variants import Variant, bases, of_base


def variants(now: Situation) -> dict[str, Variant]:
    """Return key -> variant of all that was measured."""
    survivors = {one.contender.key: one for one in field.standings(now.asked, now.results) if one.survives}
    found: dict[str, Variant] = {}
    for base in bases(now.asked, now.results, now.contenders):
        if (standing := survivors.get(base.contender.key)) is not None:
            for variant in of_base(now.asked, now.results, standing, base):
                if variant.key in now.results.measured:
                    found[variant.key] = variant
    return found


def finalists(now: Situation) -> list[Finalist]:
    """Return all that was measured; the shipped file's second timing counts instead of the first."""
    found, expected = [], expectations(now.results, now.asked.images.val)
    for key, variant in variants(now).items():
        measured = now.results.measured[key]
        timed = now.results.again.get(key, measured.timed)
        found.append(
            Finalist(
                variant=variant,
                measured=replace(measured, timed=timed),
                expectation=expected.get(variant.base.contender.key),
            )
        )
    return found


def failed_again(now: Situation, one: Finalist) -> str:
    """Return why what ran once does not run any more; empty if it does."""
    return now.results.problems.get(f"again/{one.variant.key}", "")


def decision(now: Situation) -> Decision:
    """Return the decision on what is known."""
    able = [one for one in finalists(now) if not failed_again(now, one)]
    if not able and (why := _undecided(now)):
        return Decision(chosen=None, words=(why,), undecided=True)
    return decide(now.asked, able, reference(now))


def _undecided(now: Situation) -> str:
    """Return why nothing can be said of the budget if nothing was measured; empty if something can."""
    standings = field.standings(now.asked, now.results, settled=True)
    if any(one.survives for one in standings):
        failed = any(not key.startswith("time/") for key in now.results.problems)
        return f"Nothing was ready to be measured: {'steps failed' if failed else 'the time was over'}."
    if not now.results.timed and any(one.pending for one in standings):
        return "No network was timed before the time was over."
    return ""


def reference(now: Situation) -> float | None:
    """Return the accuracy on validation that a drop is counted from: that of the best network, or of the artifact.

    It is None if the artifact could not be judged.
    """
    if now.asked.kind != "images" and not any(one.images for one in now.results.given.values()):
        return None
    return max((base.accuracy for base in bases(now.asked, now.results, now.contenders)), default=0.0)
