"""What an artifact has lost or gained against another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np

from tlopt import judging
from tlopt.artifact import Artifact
from tlopt.backends import expect_known
from tlopt.environment import MOST_THREADS
from tlopt.images import intrusion
from tlopt.measure.answers.differences import Differences, differences, same_outputs
from tlopt.measure.answers.images import ImagePart, Part, open_part
from tlopt.measure.answers.limits import Limits
from tlopt.measure.candidates import own_backend
from tlopt.measure.drift import drift
from tlopt.measure.evaluate import evaluate, same_classes
from tlopt.measure.scores import Evaluation
from tlopt.measure.statistics import mcnemar, paired_drop
from tlopt.publishing import PAGE, write_whole
from tlopt.reports import Report, Scalar, page
from tlopt.settings import MOST_IN_BATCH, Setting, flat, ruled

_NONE = Limits()
_Found = TypeVar("_Found", "Comparison", Differences)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An image that the two artifacts answer differently.

    Args:
        file: Its path, relative to the images' folder.
        label: Its true class.
        reference: The reference's answer.
        candidate: The candidate's answer.
        confidence: The candidate's probability of its answer, 0..1.
        shift: Change of the probability of the reference's answer, -1..1.
    """

    file: str
    label: str
    reference: str
    candidate: str
    confidence: float
    shift: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a candidate has lost or gained against a reference, on the same images.

    Args:
        reference: The reference's accuracy.
        candidate: The candidate's accuracy.
        images: Images that both answered.
        drop: Accuracy lost, -1..1; negative if gained.
        drop_interval: Its 95 % interval.
        broken: Images that the reference has right and the candidate wrong.
        mended: The other way round.
        p_value: McNemar's exact test of `broken` against `mended`.
        agreement: Share of the images with the same answer.
        max_error: Largest difference of a logit.
        relative_error: Root-mean-square difference of the logits over their root mean square.
        flips: The images with different answers, the largest shift first.
        recall_change: Class -> change of its recall, worst first.
        breaches: The gates breached, one sentence each.
        folder: What the flips' files are relative to.
        layers: The error layer by layer, if it was asked for.
    """

    reference: Evaluation
    candidate: Evaluation
    images: int
    drop: float
    drop_interval: tuple[float, float]
    broken: int
    mended: int
    p_value: float
    agreement: float
    max_error: float
    relative_error: float
    flips: tuple[Flip, ...] = field(repr=False)
    recall_change: Mapping[str, float] = field(repr=False)
    breaches: tuple[str, ...]
    folder: Path
    layers: Report | None = field(default=None, repr=False)

    def check(self) -> None:
        """Fail if a gate was breached.

        Raises:
            CheckError: It was.
        """
        self.to_report().check()

    def to_page(self, *, most: int = 48) -> str:
        """Return the comparison as an HTML page with the images that are answered differently.

        Args:
            most: Images shown; those whose answer moved furthest come first.
        """
        shown = [
            {
                "path": self.folder / flip.file,
                "caption": [
                    f"{flip.reference} → {flip.candidate}",
                    f"is {flip.label}: {_verdict(flip)}",
                    f"confidence {flip.confidence:.0%}, shift {flip.shift:+.0%}",
                    flip.file,
                ],
            }
            for flip in self.flips[:most]
        ]
        return page(self.to_report(), images=shown)

    def to_report(self) -> Report:
        """Return the comparison as two rows and what follows from them."""
        rows: tuple[Mapping[str, Scalar], ...] = tuple(
            {
                "artifact": one.artifact,
                "backend": one.runner,
                "images": one.images,
                "accuracy": one.top1,
                "low": one.interval[0],
                "high": one.interval[1],
                "macro_f1": one.macro_f1,
            }
            for one in (self.reference, self.candidate)
        )
        low, high = self.drop_interval
        notes = [
            f"Accuracy drop {self.drop:+.2%}, 95 % interval {low:+.2%} to {high:+.2%}; agreement {self.agreement:.2%}.",
            f"{self.broken} images were right and are wrong now, {self.mended} were wrong and are right now: "
            f"p = {self.p_value:.3g} by McNemar's exact test.",
            f"Logits differ by {self.max_error:.3g} at most, {self.relative_error:.2%} of their size on average.",
        ]
        worse = [f"{name} {change:+.1%}" for name, change in self.recall_change.items() if change < 0]
        if worse:
            notes.append(f"Recall fell for {', '.join(worse[:8])}{' …' * (len(worse) > 8)}.")
        if self.layers is not None:
            notes += [f"Layer by layer: {note}" for note in self.layers.notes]
        return Report(
            title=f"{self.candidate.artifact} against {self.reference.artifact} on {self.images} images",
            rows=rows,
            notes=(*notes, *self.breaches),
            breaches=self.breaches,
            more=() if self.layers is None else (self.layers,),
            conditions={"reference": self.reference.conditions, "candidate": self.candidate.conditions},
            details={
                "drop": self.drop,
                "drop_interval": list(self.drop_interval),
                "broken": self.broken,
                "mended": self.mended,
                "p_value": self.p_value,
                "agreement": self.agreement,
                "max_error": self.max_error,
                "relative_error": self.relative_error,
                "recall_change": dict(self.recall_change),
                "flips": [vars(flip) for flip in self.flips],
                **({"layers": [dict(row) for row in self.layers.rows]} if self.layers is not None else {}),
            },
        )


def _verdict(flip: Flip) -> str:
    if flip.label == flip.reference:
        return "broken"
    return "mended" if flip.label == flip.candidate else "both wrong"


def _check_backends(reference_backend: str, backend: str) -> None:
    expect_known(reference_backend, backend)


@flat
@ruled(_check_backends)
def compare(
    reference: str | Path | Artifact,
    candidate: str | Path | Artifact,
    *,
    images: Annotated[Path | None, Setting("Folder of images, labelled or not. Default: the training images.")] = None,
    split: Annotated[Part, Setting("Part of the images to use.")] = "test",
    reference_backend: Annotated[
        str, Setting("Backend of the reference. Default: that of its kind, or OpenVINO if it was quantized for that.")
    ] = "",
    backend: Annotated[str, Setting("Backend of the candidate. Default: as for the reference.")] = "",
    batch: Annotated[int, Setting("Images per run.", minimum=1, maximum=MOST_IN_BATCH)] = 32,
    threads: Annotated[
        int, Setting("Processor threads of a run. 0 takes one per core.", minimum=0, maximum=MOST_THREADS)
    ] = 0,
    limits: Limits = _NONE,
    layers: Annotated[bool, Setting("Show the error of each layer, too. Both artifacts must be ONNX.")] = False,
    html: Annotated[Path | None, Setting("Page to write, with the images whose answers differ.", output=PAGE)] = None,
    opened: ImagePart | None = None,
) -> Comparison | Differences:
    """Measure what an artifact has lost against another.

    Both artifacts answer the same images. The loss of accuracy is shown with its 95 % interval and
    with a test of whether chance explains it. Limits that are exceeded end the command with exit
    code 3.

    Images in a flat folder have no labels. Then the error of the logits is shown. Networks that are
    no classifiers are always compared so: by the error of each output.

    From Python:
        opened: Images that are open already; they are used instead of `images`.

    Raises:
        ImagesError: The images cannot be used, or the artifacts' classes differ.
        ArtifactError: An artifact is damaged, their outputs differ, or a backend does not run its kind.
        SettingError: A limit needs labels, and there are none.
        StageError: A backend cannot run it here.
    """
    first = Artifact.load(reference)
    second = Artifact.load(candidate)
    same_outputs(first, second)
    same_classes(first, second)
    if layers:
        first.expect("onnx")
        second.expect("onnx")
    if opened is None:
        opened = open_part(first, images, split, flat=True)
    reference_backend, backend = reference_backend or own_backend(first), backend or own_backend(second)
    if html is not None:
        intrusion.check_file(html, makes=PAGE, reads=[first.path, second.path, *opened.folder.places()])
    if first.card.task == "any" or not opened.folder.classes:
        what = f"the images in {opened.folder.path} have none"
        what = f"{first.name} is no classifier" if first.card.task == "any" else what
        limits.check(what, classes=first.card.task == "classify")
        found = differences(
            first, second, opened.folder, backends=(reference_backend, backend), batch=batch, threads=threads
        )
        drifted = drift(first, second, images=opened.folder.source) if layers else None
        far = (*limits.far(found.outputs), *limits.breaches(agreement=found.agreement))
        return _written(replace(found, breaches=far, layers=drifted), html)
    before = evaluate(first, backend=reference_backend, batch=batch, threads=threads, opened=opened)
    after = evaluate(
        second, backend=backend, batch=batch, threads=threads, opened=opened, reference_outputs=before.outputs
    )
    was, now = before.outputs, after.outputs
    broken = int((was.correct & ~now.correct).sum())
    mended = int((~was.correct & now.correct).sum())
    drop = before.top1 - after.top1
    agreement = judging.agreement(was.predicted, now.predicted)
    difference = now.logits.astype(np.float64) - was.logits
    snr_db = judging.decibels(judging.noise(*(judging.as_logits(one.logits, one.kind) for one in (now, was))))
    changes = (
        (new.name, new.recall - old.recall)
        for old, new in zip(before.scores, after.scores, strict=True)
        if new.recall is not None and old.recall is not None
    )
    recall_change = dict(sorted(changes, key=lambda item: item[1]))
    comparison = Comparison(
        reference=before,
        candidate=after,
        images=before.images,
        drop=drop,
        drop_interval=paired_drop(broken, mended, before.images),
        broken=broken,
        mended=mended,
        p_value=mcnemar(broken, mended),
        agreement=agreement,
        max_error=float(np.abs(difference).max()),
        relative_error=float(np.sqrt((difference**2).mean() / max(1e-12, float((was.logits**2).mean())))),
        flips=_flips(before, after, first.card.classes),
        recall_change=recall_change,
        breaches=limits.breaches(drop, agreement, recall_change, snr_db=snr_db),
        folder=opened.folder.path,
        layers=drift(first, second, images=opened.folder.source) if layers else None,
    )
    return _written(comparison, html)


def _written(found: _Found, html: Path | None) -> _Found:
    """Write the page of a comparison, if one is asked for."""
    if html is not None:
        write_whole(html, found.to_page(), errors="replace", special=True)
    return found


def _flips(before: Evaluation, after: Evaluation, classes: tuple[str, ...]) -> tuple[Flip, ...]:
    was, now = before.outputs, after.outputs
    old, new = was.probabilities, now.probabilities
    changed: Any = np.flatnonzero(was.predicted != now.predicted)
    found = [
        Flip(
            file=was.files[i],
            label=classes[was.labels[i]],
            reference=classes[was.predicted[i]],
            candidate=classes[now.predicted[i]],
            confidence=float(new[i].max()),
            shift=float(new[i, was.predicted[i]] - old[i, was.predicted[i]]),
        )
        for i in changed.tolist()
    ]
    return tuple(sorted(found, key=lambda flip: flip.shift))
