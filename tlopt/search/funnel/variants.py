"""How a trained network is compressed to the budget: which of its variants are worth making, given what is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlopt.search.funnel.asked import Asked, Contender, standard_error
from tlopt.search.funnel.field import Standing, kin, within
from tlopt.search.funnel.results import Results, Trained
from tlopt.search.once import digest_of
from tlopt.search.space import Point, Precision

Way = Literal["plain", "mixed", "trained"]

ALLOWED_DROP = 0.005  # of accuracy that int8 may lose before other ways to int8 are tried


@dataclass(frozen=True, kw_only=True)
class Base:
    """A trained network.

    Args:
        contender: Whose.
        artifact: Folder of it below that of the search; empty for the artifact that the search was given.
        accuracy: Its accuracy on validation.
        what: "trained", "first" (its classifier alone was), "mixed" (a mean of weights) or "given".
    """

    contender: Contender
    artifact: str
    accuracy: float
    what: Literal["trained", "first", "mixed", "given"] = "trained"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A network as it would be shipped.

    Args:
        base: What it is made of.
        point: Its width and precision, and what runs it.
        way: How it goes to int8: "plain" after training, "mixed" with float blocks, "trained" for it.
    """

    base: Base
    point: Point
    way: Way = "plain"

    @property
    def is_quick(self) -> bool:
        """Whether it is made without training."""
        return self.way == "plain" and self.point.width == 1

    @property
    def made_key(self) -> str:
        """Identity of the artifact: what runs it only counts if it decides how it is made."""
        point = self.point
        runtime = point.backend.partition(":")[0]
        return digest_of(self.base.contender.key, self.base.artifact, point.width, point.precision, self.way, runtime)

    @property
    def key(self) -> str:
        """Identity of the variant."""
        return digest_of(self.made_key, self.point.digest)

    @property
    def how(self) -> str:
        """What is special in how it was made, in words; empty if nothing is."""
        words = [{"first": "classifier alone", "mixed": "mean of weights"}.get(self.base.what, "")]
        words += [f"pruned to {100 * self.point.width:.0f} %"] if self.point.width < 1 else []
        words += [{"mixed": "float blocks", "trained": "qat"}.get(self.way, "")]
        return ", ".join(filter(None, words))

    @property
    def label(self) -> str:
        """What a person calls it."""
        words = {"first": ", classifier alone trained", "mixed": ", mean of weights"}.get(self.base.what, "")
        how = {"mixed": " with float blocks", "trained": " by qat"}.get(self.way, "")
        narrow = f", {100 * self.point.width:.0f} % of the multiply-adds" if self.point.width < 1 else ""
        threads = f", {self.point.threads} threads" if self.point.threads else ""
        what = f"{self.base.contender.label}{words}{narrow}"
        return f"{what}, {self.point.precision}{how} on {self.point.backend}{threads}"


def of_base(asked: Asked, results: Results, standing: Standing, base: Base) -> list[Variant]:
    """Return the variants of a trained network that are worth making, in the order of their promise.

    First whatever may keep to the budget whole. Int8 that loses accuracy is tried with float blocks, then with
    training. A network is pruned if no whole variant keeps to the budget.
    """
    whole = [Variant(base=base, point=point) for point in within(asked, results, asked.points(standing.contender))]
    found = _best_runtimes(whole)
    if base.what == "first":  # a stopgap: its fastest variant will do
        return (found or (_pruned(asked, results, standing, base) if asked.prunes else []))[:1]
    found += [other for one in found for other in _long_ways(asked, results, one)]
    if asked.prunes and not any(_keeps(asked, results, one) for one in found):
        found += _pruned(asked, results, standing, base)
    return found


def widths_to_time(asked: Asked, results: Results, standing: Standing) -> list[Point]:
    """Return the points that tell how much a contender has to be pruned, one width at a time from the largest."""
    for width in sorted(set(asked.space.widths) - {1.0}, reverse=True):
        points = _kin(asked, standing, width)
        pending = [point for point in points if not results.done(f"time/{point.digest}")]
        if pending or within(asked, results, points):
            return pending
    return []


def _kin(asked: Asked, standing: Standing, width: float) -> list[Point]:
    return kin(asked, standing.contender, standing.best, width) if standing.best else []


def _best_runtimes(variants: list[Variant]) -> list[Variant]:
    """Return the fastest variant of each precision; they come the fastest first."""
    found: dict[Precision, Variant] = {}
    for one in variants:
        found.setdefault(one.point.precision, one)
    return list(found.values())


def _pruned(asked: Asked, results: Results, standing: Standing, base: Base) -> list[Variant]:
    tried: list[Variant] = []
    for width in sorted(set(asked.space.widths) - {1.0}, reverse=True):
        for point in within(asked, results, _kin(asked, standing, width))[:1]:
            one = Variant(base=base, point=point)
            tried += [one, *_long_ways(asked, results, one)]
            # The next width only if this one turns out to be too slow after all.
            if not results.done(f"measure/{one.key}") or _keeps(asked, results, one):
                return tried
    return tried


def _long_ways(asked: Asked, results: Results, one: Variant) -> list[Variant]:
    """Return other ways to int8, if the plain one was measured and loses more than it may.

    What pruning lost is not counted: no way to int8 brings it back.
    """
    plain = results.measured.get(one.key)
    if one.point.precision != "int8" or plain is None:
        return []
    before = _float_accuracy(results, one)
    if before - plain.accuracy <= max(ALLOWED_DROP, 0.5 * standard_error(before, plain.images)):
        return []
    ways: list[Way] = ["mixed"] if one.point.width == 1 else []
    if "qat" in asked.space.precisions and asked.kind != "onnx" and asked.own:
        ways.append("trained")
    return [Variant(base=one.base, point=one.point, way=way) for way in ways]


def _float_accuracy(results: Results, one: Variant) -> float:
    """Return the accuracy on validation, in floating point, of the network that went to int8."""
    made = results.made.get(one.made_key)
    known = made.float_accuracy if made is not None else None
    return one.base.accuracy if known is None else known


def _keeps(asked: Asked, results: Results, one: Variant) -> bool:
    """Return whether a variant keeps to the budget, or may: it has not been measured yet."""
    if f"make/{one.made_key}" in results.problems or f"measure/{one.key}" in results.problems:
        return False
    measured = results.measured.get(one.key)
    return measured is None or not asked.budget.unmet(measured.timed)


def bases(asked: Asked, results: Results, contenders: dict[str, Contender]) -> list[Base]:
    """Return the trained networks there are, the better first within each kind."""
    if asked.kind != "images":
        return [
            Base(contender=one, artifact="", accuracy=given_accuracy(results, one), what="given")
            for one in contenders.values()
        ]
    found: list[tuple[Trained, Base]] = []
    for key, stops in results.trained.items():
        found += [
            (one, Base(contender=contenders[key], artifact=one.artifact, accuracy=one.accuracy))
            for one in stops.values()
            if one.artifact
        ]
    found += [
        (one, Base(contender=contenders[key], artifact=one.artifact, accuracy=one.accuracy, what="mixed"))
        for key, one in results.mixed.items()
        if one.artifact
    ]
    found += [
        (one, Base(contender=contenders[key], artifact=one.artifact, accuracy=one.accuracy, what="first"))
        for key, one in results.first.items()
        if one.artifact
    ]
    return [base for _, base in sorted(found, key=lambda pair: (-pair[0].accuracy, pair[0].loss))]


def given_accuracy(results: Results, one: Contender) -> float:
    """Return the accuracy of an artifact that the search was given; 0 before it was measured."""
    found = results.given.get(one.key)
    return found.hits / found.images if found and found.images else 0.0
