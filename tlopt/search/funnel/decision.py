"""Which variant is the answer: by accuracy on validation and by the clock, with the chance in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlopt.search.funnel.asked import Asked, standard_error
from tlopt.search.funnel.expectation import Expectation
from tlopt.search.funnel.results import Measured
from tlopt.search.funnel.variants import Variant


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A variant that was measured.

    Args:
        variant: What it is.
        measured: What it is worth.
        expectation: What the ranking makes of its accuracy; None if it says nothing.
    """

    variant: Variant
    measured: Measured
    expectation: Expectation | None = None

    @property
    def expected(self) -> float:
        """The accuracy that validation images and the ranking speak for together."""
        shift = self.expectation.shift if self.expectation else 0.0
        return min(1.0, max(0.0, self.measured.accuracy + shift))

    @property
    def chance(self) -> float:
        """The standard error of that accuracy."""
        if self.expectation:
            return self.expectation.error
        return standard_error(self.measured.accuracy, self.measured.images)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer, or how near the search came.

    Args:
        chosen: The answer; None if nothing keeps to the budget.
        words: Why, a sentence each.
        nearest: Those that come nearest to the budget if nothing keeps to it.
        undecided: Whether nothing was measured, so that nothing is known of the budget.
    """

    chosen: Finalist | None
    words: tuple[str, ...]
    nearest: tuple[Finalist, ...] = ()
    undecided: bool = False


_NEAREST = 3


def unmet(asked: Asked, one: Finalist, reference: float | None) -> str:
    """Return what of the budget a finalist does not keep to, as the rest of a sentence; empty if it keeps to all.

    Args:
        asked: The search.
        one: The finalist.
        reference: The accuracy that a drop is counted from; None if it is not known.
    """
    if why := asked.budget.unmet(one.measured.timed):
        return why
    if asked.budget.max_drop is not None and reference is None:
        return "the artifact itself could not be judged"
    least = least_accuracy(asked, reference)
    if one.measured.accuracy < least:
        return f"{one.measured.accuracy:.1%} right, where {least:.1%} are asked for"
    return ""


def least_accuracy(asked: Asked, reference: float | None) -> float:
    """Return the accuracy that the answer must have."""
    if asked.budget.max_drop is not None and reference is not None:
        return reference - asked.budget.max_drop
    return asked.budget.min_accuracy or 0.0


def decide(asked: Asked, finalists: Sequence[Finalist], reference: float | None) -> Decision:
    """Return the most accurate finalist that keeps to the budget beyond noise.

    Of those within one standard error of it, by accuracy and by loss, the faster wins; of those as fast but for
    noise, the smaller. An accuracy is what validation images and the ranking speak for together. Few images tell two
    accuracies apart badly, and two losses better: every image counts in them, and not only those that are on the edge
    of being right.
    """
    fitting = [one for one in finalists if not unmet(asked, one, reference)]
    if not fitting:
        return _none(asked, finalists, reference)
    most = max(fitting, key=lambda one: (one.expected, -one.measured.timed.latency_ms))
    alike = [one for one in fitting if _alike(one, most)]
    fastest = min(alike, key=lambda one: one.measured.timed.latency_ms)
    as_fast = [one for one in alike if one.measured.timed.interval_ms[0] <= fastest.measured.timed.interval_ms[1]]
    chosen = min(as_fast, key=lambda one: (one.measured.timed.size_mb, one.measured.timed.latency_ms))
    return Decision(chosen=chosen, words=_words(asked, chosen, most, alike, fitting))


def _alike(one: Finalist, most: Finalist) -> bool:
    """Whether chance alone may make one look worse than the most accurate."""
    if one is most or one.expected < most.expected - most.chance:
        return one is most
    loss, least = one.measured.loss, most.measured.loss
    return loss is None or least is None or loss <= least + most.measured.loss_error


def _words(
    asked: Asked,
    chosen: Finalist,
    most: Finalist,
    alike: Sequence[Finalist],
    fitting: Sequence[Finalist],
) -> tuple[str, ...]:
    count = f"{len(fitting)} variants keep" if len(fitting) > 1 else "One variant keeps"
    found = [f"{count} to the budget of {asked.budget.told()}, beyond noise."]
    if len(fitting) > 1:
        found += _leader(most)
    if chosen is most:
        return (*found, f"It is the answer: {_figures(chosen)}.") if len(fitting) > 1 else (*found, _only(chosen))
    in_loss = "" if most.measured.loss is None else " and in loss"
    found.append(
        f"{len(alike)} variants lie within one standard error of it in accuracy ({100 * most.chance:.1f} points)"
        f"{in_loss}, which is chance."
    )
    found.append(f"The fastest of these, and of those as fast the smallest, is the answer: {chosen.variant.label}, "
                 f"{_figures(chosen)}.")  # fmt: skip
    return tuple(found)


def _leader(most: Finalist) -> list[str]:
    right = f"{most.variant.label}: {most.measured.accuracy:.1%} right"
    if (ranking := most.expectation) is None:
        return [f"The most accurate on {most.measured.images} validation images is {right}."]
    return [
        f"The best on {most.measured.images} validation images and the {ranking.images} of the ranking is {right}.",
        f"Both together speak for {most.expected:.1%}.",
    ]


def _only(chosen: Finalist) -> str:
    return f"It is the answer: {chosen.variant.label}, {_figures(chosen)}."


def _figures(one: Finalist) -> str:
    timed = one.measured.timed
    return f"{one.measured.accuracy:.1%} right, {timed.latency_ms:.3g} ms, {timed.size_mb:.3g} MB"


def _none(asked: Asked, finalists: Sequence[Finalist], reference: float | None) -> Decision:
    def distance(one: Finalist) -> tuple[float, float]:
        short = max(0.0, least_accuracy(asked, reference) - one.measured.accuracy)
        return (max(1.0, asked.budget.excess(one.measured.timed)) + 10 * short, -one.measured.accuracy)

    nearest = tuple(sorted(finalists, key=distance)[:_NEAREST])
    words = [f"Nothing keeps to the budget of {asked.budget.told()}."]
    words += [f"Near it: {one.variant.label}, {unmet(asked, one, reference)}." for one in nearest]
    return Decision(chosen=None, words=tuple(words), nearest=nearest)
