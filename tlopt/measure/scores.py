"""What an evaluation found: how right an artifact is as a whole, for each class and for each source."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlopt.measure.answers.predictions import Outputs
from tlopt.measure.corruptions import Corrupted
from tlopt.measure.selective import Selective, by_coverage
from tlopt.reports import Report, Scalar

_MOST_CLASSES = 30  # that still make a table to read; --json has all


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How one class fares.

    Args:
        name: The class.
        images: Images of it.
        precision: Share of the images called so that are of it; 0 if none is called so.
        recall: Share of its images that are called so; None if it has none.
        f1: Harmonic mean of both.
    """

    name: str
    images: int
    precision: float
    recall: float | None
    f1: float


@dataclass(frozen=True, kw_only=True)
class OriginScore:
    """How the images of one source of a merged set fare.

    Args:
        origin: The source, as the set's manifest names it.
        images: Images from it.
        top1: Share whose top class is right.
        interval: The 95 % interval of `top1`.
    """

    origin: str
    images: int
    top1: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How right an artifact is.

    Args:
        artifact: Name of its folder.
        runner: Backend and device.
        images: Images it was judged on.
        top1: Share whose top class is right.
        interval: The 95 % interval of `top1`.
        top5: Share with the right class among the top five; None below six classes.
        agreement: Share with the same top class as the reference; None without one.
        macro_f1: Mean F1 over the classes that are in the labels or the answers.
        calibration_error: Expected calibration error, 0..1.
        majority: Share of the most frequent class: the accuracy of always answering it.
        scores: Per class, in the order of the logits.
        origins: Per source, by name; empty if the images come from one or the set does not say.
        confusion: int64 (classes, classes): row the true class, column the answer.
        unreadable: File -> reason, of the images left out.
        images_per_s: From file to answer, decoding included; None if they were decoded before.
        outputs: The answers themselves.
        conditions: What the figures were measured under.
        selective: The confidence that was chosen for a wanted precision; None if none was wanted.
        corrupted: Per corruption, if that was asked for.
        reference_corrupted: The same of the reference.
    """

    artifact: str
    runner: str
    images: int
    top1: float
    interval: tuple[float, float]
    top5: float | None
    agreement: float | None
    macro_f1: float
    calibration_error: float
    majority: float
    scores: tuple[ClassScore, ...]
    origins: tuple[OriginScore, ...]
    confusion: np.ndarray = field(repr=False)
    unreadable: Mapping[str, str] = field(repr=False)
    images_per_s: float | None
    outputs: Outputs = field(repr=False)
    conditions: Mapping[str, Any] = field(repr=False)
    selective: Selective | None = None
    corrupted: tuple[Corrupted, ...] = ()
    reference_corrupted: tuple[Corrupted, ...] = ()

    def to_report(self) -> Report:
        """Return the summary as a row, with the classes and the confusion matrix as details."""
        row: dict[str, Scalar] = {
            "artifact": self.artifact,
            "backend": self.runner,
            "images": self.images,
            "accuracy": self.top1,
            "low": self.interval[0],
            "high": self.interval[1],
            "top5": self.top5,
            "macro_f1": self.macro_f1,
            "agreement": self.agreement,
            "calibration_error": self.calibration_error,
            "images_per_s": self.images_per_s,
        }
        notes = [f"Always answering the most frequent class would be right for {self.majority:.1%}."]
        if "auto" in self.conditions:
            notes.insert(0, self.conditions["auto"])
        if self.selective:
            notes.insert(0, self.selective.sentence())
        if self.origins:
            shares = (f"{one.origin} {one.top1:.1%} of {one.images}" for one in self.origins)
            notes.insert(0, f"By source: {', '.join(shares)}.")
        if missing := [score.name for score in self.scores if not score.images]:
            notes.append(f"No image shows {', '.join(missing)}: what the network makes of them is not measured.")
        if self.unreadable:
            notes.insert(
                0,
                f"Images left out because they cannot be read ({len(self.unreadable)}): {', '.join(self.unreadable)}.",
            )
        part = "" if self.conditions["split"] == "all" else f" {self.conditions['split']}"
        return Report(
            title=f"{self.artifact}: {self.top1:.1%} right on {self.images}{part} images, "
            f"95 % interval {self.interval[0]:.1%} to {self.interval[1]:.1%}",
            rows=(row,),
            notes=tuple(notes),
            conditions=self.conditions,
            more=self._more(),
            details={
                "classes": [vars(score) for score in self.scores],
                "origins": [vars(score) for score in self.origins],
                "confusion": self.confusion.tolist(),
                "unreadable": dict(self.unreadable),
                "selective": None if self.selective is None else vars(self.selective),
            },
        )

    def _more(self) -> tuple[Report, ...]:
        """Return the further tables that a reader can take in."""
        return (
            *([self.by_class()] if len(self.scores) <= _MOST_CLASSES else []),
            *([self.by_origin()] if self.origins else []),
            by_coverage(self.outputs),
            *([self.by_corruption()] if self.corrupted else []),
        )

    def by_class(self) -> Report:
        """Return one row per class."""
        return Report(title="By class", rows=tuple(vars(score) for score in self.scores))

    def by_origin(self) -> Report:
        """Return one row per source of a merged set."""
        rows: tuple[dict[str, Scalar], ...] = tuple(
            {
                "origin": one.origin,
                "images": one.images,
                "accuracy": one.top1,
                "low": one.interval[0],
                "high": one.interval[1],
            }
            for one in self.origins
        )
        return Report(title="By source", rows=rows)

    def by_corruption(self) -> Report:
        """Return one row per corruption, and their mean: the accuracy at each strength, and the reference's."""
        rows = [
            _strengths(own, other)
            for own, other in itertools.zip_longest(self.corrupted, self.reference_corrupted)
            if own is not None
        ]
        numbers = [name for name in rows[0] if name != "corruption"]
        mean: dict[str, Scalar] = {name: sum(float(row[name] or 0) for row in rows) / len(rows) for name in numbers}
        return Report(title="On corrupted images, by strength", rows=(*rows, {"corruption": "mean", **mean}))


def _strengths(own: Corrupted, other: Corrupted | None) -> dict[str, Scalar]:
    row: dict[str, Scalar] = {"corruption": own.corruption}
    row |= {f"accuracy_{i}": share for i, share in enumerate(own.accuracies, 1)}
    if other is not None:
        row |= {f"reference_{i}": share for i, share in enumerate(other.accuracies, 1)}
    return row
