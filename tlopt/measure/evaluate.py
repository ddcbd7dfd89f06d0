"""How right an artifact is on labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from tlopt import judging
from tlopt.artifact import Artifact
from tlopt.environment import MOST_THREADS, cores, processor, versions
from tlopt.errors import ImagesError
from tlopt.measure.answers.images import ImagePart, Part, open_part
from tlopt.measure.answers.predictions import Outputs, answer
from tlopt.measure.choose import choose
from tlopt.measure.corruptions import on_corrupted
from tlopt.measure.scores import ClassScore, Evaluation, OriginScore
from tlopt.measure.selective import selective
from tlopt.measure.statistics import wilson
from tlopt.preprocess import Views
from tlopt.settings import MOST_IN_BATCH, Setting, checked


@checked
def evaluate(
    artifact: str | Path | Artifact,
    *,
    images: Annotated[Path | None, Setting("Folder of labelled images. Default: the training images.")] = None,
    split: Annotated[Part, Setting("Part of the images to use.")] = "test",
    backend: Annotated[
        str,
        Setting(
            "Backend, or backend:device. auto takes the fastest backend that gives the same answers. Default:"
            " that of the artifact's kind."
        ),
    ] = "",
    batch: Annotated[int, Setting("Largest number of images per run.", minimum=1, maximum=MOST_IN_BATCH)] = 32,
    threads: Annotated[int, Setting("Processor threads. 0 takes one per core.", minimum=0, maximum=MOST_THREADS)] = 0,
    tta: Annotated[
        Views,
        Setting(
            "Views of each image whose answers are averaged. flip adds the mirrored center. five adds the "
            "corners. ten adds the mirror images of these five."
        ),
    ] = "center",
    reference: Annotated[Path | None, Setting("Artifact whose answers are compared with these.")] = None,
    min_precision: Annotated[
        float | None,
        Setting(
            "Find the confidence from which on this share of the answers is right, on the validation images. "
            "predict --min-confidence takes it.",
            minimum=0,
            maximum=1,
        ),
    ] = None,
    corruptions: Annotated[
        bool, Setting("Measure the accuracy on blurred, noisy, compressed, brighter, darker and flat images, too.")
    ] = False,
    opened: ImagePart | None = None,
    reference_outputs: Outputs | None = None,
) -> Evaluation:
    """Measure the accuracy of an artifact on labelled images.

    The share of right answers is shown with its 95 % interval, and for each class its precision and
    recall. A table shows how accuracy grows where only the surer answers count. --tta (test-time
    augmentation) averages the answers for several views of each image.

    From Python:
        opened: Images that are open already; they are used instead of `images`, and kept decoded for the next call.
        reference_outputs: The reference's answers on the same images, if they are there already.

    Raises:
        ImagesError: The images cannot be used, or their classes are not the artifact's.
        ArtifactError: The artifact is damaged or no classifier, or the backend does not run its kind.
        StageError: The backend cannot run it here.
    """
    artifact = Artifact.load(artifact).expect_classifier("evaluate")
    other = (
        None if reference is None else same_classes(artifact, Artifact.load(reference).expect_classifier("evaluate"))
    )
    keep = opened is not None or reference is not None
    if opened is None:
        opened = open_part(artifact, images, split)
    opened.expect(artifact)
    sought = None if min_precision is None else _validation(artifact, images, opened)
    how: dict[str, Any] = {"batch": batch, "views": tta}
    if backend == "auto":
        choice = choose(artifact, opened=opened, batch=batch, threads=threads)
        backend, how["auto"] = choice.backend, choice.report.notes[0]
    outputs = answer(artifact, opened, backend=backend, batch=batch, threads=threads, keep=keep, views=tta)
    if other is not None and reference_outputs is None:
        reference_outputs = answer(other, opened, batch=batch, threads=threads, keep=True, views=tta)
    found = _judged(artifact, opened, outputs, reference_outputs, how)
    if sought is not None and min_precision is not None:
        chosen_on = answer(artifact, sought, backend=backend, batch=batch, threads=threads, views=tta)
        found = replace(found, selective=selective(chosen_on, outputs, min_precision))
    if corruptions:
        of_other = () if other is None else on_corrupted(other, opened, batch=batch, threads=threads)
        own = on_corrupted(artifact, opened, backend=backend, batch=batch, threads=threads)
        found = replace(found, corrupted=own, reference_corrupted=of_other)
    return found


def _validation(artifact: Artifact, images: Path | None, opened: ImagePart) -> ImagePart:
    """Open the images on which a threshold is chosen.

    Raises:
        ImagesError: There are none, or they are the ones that the artifact is judged on.
    """
    if opened.part in ("val", "all"):
        hint = "Leave --split out."
        if images is not None:
            hint = f"Use a folder with parts for --images: tlopt data split {images} makes one. {hint}"
        which = "the validation images" if opened.part == "val" else f"all {len(opened)} images"
        raise ImagesError(
            f"A confidence is chosen on validation images and judged on others, but {which} would be judged.", hint=hint
        )
    found = open_part(artifact, images, "val")
    found.expect(artifact)
    return found


def same_classes(artifact: Artifact, other: Artifact) -> Artifact:
    """Return the other artifact if both have the same logits.

    Raises:
        ImagesError: Their classes or their order differ.
    """
    if artifact.card.classes != other.card.classes:
        raise ImagesError(
            f"{artifact.path} and {other.path} have different classes: {', '.join(artifact.card.classes[:8])} and "
            f"{', '.join(other.card.classes[:8])}.",
            hint="Only artifacts with the same classes can be compared.",
        )
    return other


def _judged(
    artifact: Artifact, opened: ImagePart, outputs: Outputs, reference: Outputs | None, how: Mapping[str, Any]
) -> Evaluation:
    count, classes = len(outputs.labels), len(artifact.card.classes)
    if count == 0:
        raise ImagesError(f"None of the {len(opened)} images in {opened.folder.path} can be read.")
    predicted, correct = outputs.predicted, outputs.correct
    confusion = judging.confusion(predicted, outputs.labels, classes)
    scores = _scores(artifact.card.classes, confusion)
    top5 = None
    if classes > 5:
        best = np.argpartition(outputs.logits, -5, axis=1)[:, -5:]
        top5 = float((best == outputs.labels[:, None]).any(axis=1).mean())
    return Evaluation(
        artifact=artifact.name,
        runner=outputs.runner,
        images=count,
        top1=float(correct.mean()),
        interval=wilson(int(correct.sum()), count),
        top5=top5,
        agreement=None if reference is None else judging.agreement(reference.predicted, predicted),
        macro_f1=judging.macro_f1(confusion),
        calibration_error=judging.calibration_error(outputs.probabilities.max(axis=1), correct),
        majority=float(confusion.sum(axis=1).max() / count),
        scores=scores,
        origins=_origins(opened, outputs),
        confusion=confusion,
        unreadable=dict(opened.unreadable),
        images_per_s=outputs.images_per_s,
        outputs=outputs,
        conditions={
            "images": str(opened.folder.source),
            "split": opened.part,
            **how,
            "processor": processor(),
            "cores": cores(),
            "runner": dict(outputs.conditions),
            "versions": versions(),
        },
    )


def _origins(opened: ImagePart, outputs: Outputs) -> tuple[OriginScore, ...]:
    folder = opened.folder
    known = dict(zip(folder.files, folder.origins, strict=True)) if folder.origins else {}
    if len(set(known.values())) < 2:
        return ()
    of = np.array([known[file] or "unknown" for file in outputs.files])
    scores = []
    for origin in sorted(set(of.tolist())):
        correct = outputs.correct[of == origin]
        hits, images = int(correct.sum()), len(correct)
        scores.append(OriginScore(origin=origin, images=images, top1=hits / images, interval=wilson(hits, images)))
    return tuple(scores)


def _scores(names: tuple[str, ...], confusion: np.ndarray) -> tuple[ClassScore, ...]:
    hits, images, answers = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return tuple(
        ClassScore(
            name=name,
            images=int(n),
            precision=float(hit / max(1, m)),
            recall=float(hit / n) if n else None,
            f1=float(2 * hit / max(1, n + m)),
        )
        for name, hit, n, m in zip(names, hits, images, answers, strict=True)
    )
