"""How far the answers of one artifact are from those of another, where there are no labels to judge them by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tlopt import judging
from tlopt.artifact import Artifact
from tlopt.backends import call_of, open_runner
from tlopt.backends._answers import check_answer
from tlopt.cards.details import OutputError
from tlopt.errors import ArtifactError, ImagesError
from tlopt.images import Batch, ImageFolder, Unreadable, batches
from tlopt.measure.answers.images import view
from tlopt.measure.candidates import running
from tlopt.outputs import Answer, Errors, described
from tlopt.preprocess import Preprocess
from tlopt.reports import Report, Scalar, page


@dataclass(frozen=True, kw_only=True)
class Far:
    """An image and how far the candidate's answer to it is from the reference's.

    Args:
        file: Its path, relative to the images' folder.
        snr_db: Signal to noise of the worst output, decibels.
    """

    file: str
    snr_db: float


@dataclass(frozen=True, kw_only=True)
class Differences:
    """How far a candidate is from a reference, on the same images.

    Args:
        reference: Name of the reference.
        candidate: Name of the candidate.
        images: Images that both answered.
        outputs: The error of each output; of a classifier, of its logits.
        agreement: Share of the images with the same class; None if they are no classifiers.
        runners: Backend and device of the reference and of the candidate.
        far: Every image, the one with the largest error first.
        breaches: The gates breached, one sentence each.
        folder: What the images' files are relative to.
        unreadable: File -> reason, of the images left out.
        conditions: Of both runners.
        layers: The error layer by layer, if it was asked for.
    """

    reference: str
    candidate: str
    images: int
    outputs: tuple[OutputError, ...]
    agreement: float | None
    runners: tuple[str, str]
    far: tuple[Far, ...] = field(repr=False)
    folder: Path
    unreadable: Mapping[str, str] = field(repr=False)
    conditions: Mapping[str, Any] = field(repr=False)
    breaches: tuple[str, ...] = ()
    layers: Report | None = field(default=None, repr=False)

    def check(self) -> None:
        """Fail if a gate was breached.

        Raises:
            CheckError: It was.
        """
        self.to_report().check()

    def to_page(self, *, most: int = 48) -> str:
        """Return the differences as an HTML page with the images whose answers differ most.

        Args:
            most: Images shown.
        """
        shown = [
            {"path": self.folder / one.file, "caption": [f"{one.snr_db:.1f} dB", one.file]} for one in self.far[:most]
        ]
        return page(self.to_report(), images=shown)

    def to_report(self) -> Report:
        """Return a row for each output, and what follows from them."""
        rows: tuple[Mapping[str, Scalar], ...] = tuple(
            {
                "output": error.name,
                "snr_db": error.snr_db,
                "cosine": error.cosine,
                "largest_difference": error.largest,
                **({"equal": error.equal} if any(e.equal is not None for e in self.outputs) else {}),
                **({"rows_in_both": error.rows} if any(e.rows is not None for e in self.outputs) else {}),
            }
            for error in self.outputs
        )
        notes = ["Judged by the error of each output, as there are no labels."]
        notes.append("The reference ran in {}, the candidate in {}.".format(*self.runners))
        if self.agreement is not None:
            notes.append(f"The answers agree on {self.agreement:.2%} of the images.")
        if self.far:
            worst = self.far[0]
            notes.append(f"The worst image is {worst.file}, with {worst.snr_db:.1f} dB.")
        if self.unreadable:
            left_out = ", ".join(self.unreadable)
            notes.append(f"Images left out because they cannot be read ({len(self.unreadable)}): {left_out}.")
        if self.layers is not None:
            notes += [f"Layer by layer: {note}" for note in self.layers.notes]
        return Report(
            title=f"{self.candidate} against {self.reference} on {self.images} images",
            rows=rows,
            notes=(*notes, *self.breaches),
            breaches=self.breaches,
            more=() if self.layers is None else (self.layers,),
            conditions=self.conditions,
            details={
                "agreement": self.agreement,
                "images": [vars(one) for one in self.far],
                **({"layers": [dict(row) for row in self.layers.rows]} if self.layers is not None else {}),
            },
        )


def differences(
    first: Artifact, second: Artifact, folder: ImageFolder, *, backends: tuple[str, str], batch: int, threads: int
) -> Differences:
    """Run two artifacts on images, and return how far the second is from the first.

    Args:
        first: The reference.
        second: The candidate, with the same outputs.
        folder: The images.
        backends: ``name`` or ``name:device`` of each; empty for that of its kind.
        batch: Images per run.
        threads: Processor threads; 0 for one per core.

    Raises:
        ArtifactError: A backend does not run an artifact's kind.
        ImagesError: No image can be read.
        StageError: A backend cannot run an artifact here.
    """
    outputs = described(first.card)
    whole, same, far = Errors(outputs), 0, []
    unreadable = Unreadable(len(folder))
    with ExitStack() as stack:
        runners = [
            stack.enter_context(open_runner(artifact, backend, threads=threads))
            for artifact, backend in zip((first, second), backends, strict=True)
        ]
        runs = [_answering(a, r.name, call_of(r, a)) for a, r in zip((first, second), runners, strict=True)]
        for files, own, other in _pairs(folder, first.card.preprocess, second.card.preprocess, batch, unreadable):
            for file, reference, answer in zip(files, runs[0](own), runs[1](other), strict=True):
                alone = Errors(outputs)
                alone.add(reference, answer)
                whole.merge(alone)
                if first.card.task == "classify":
                    same += int(reference[0].argmax() == answer[0].argmax())
                far.append(Far(file=file, snr_db=judging.decibels(alone.noise())))
        conditions = {name: dict(r.conditions) for name, r in zip(("reference", "candidate"), runners, strict=True)}
    if not far:
        raise ImagesError(f"None of the {len(folder)} images in {folder.path} can be read.")
    return Differences(
        reference=first.name,
        candidate=second.name,
        images=len(far),
        outputs=whole.found(),
        runners=(runners[0].name, runners[1].name),
        agreement=same / len(far) if first.card.task == "classify" else None,
        far=tuple(sorted(far, key=lambda one: one.snr_db)),
        folder=folder.path,
        unreadable=unreadable.reasons,
        conditions=conditions,
    )


def same_outputs(first: Artifact, second: Artifact) -> None:
    """Refuse two artifacts that answer with other outputs.

    Raises:
        ArtifactError: They do.
    """
    names, others = ([output.name for output in artifact.card.outputs] for artifact in (first, second))
    if first.card.task != second.card.task or names != others:
        told = (", ".join(found) or "classes" for found in (names, others))
        raise ArtifactError(
            f"{first.path} and {second.path} answer with other outputs: {' and '.join(told)}.",
            hint="Only artifacts with the same outputs can be compared.",
        )


def _answering(
    artifact: Artifact, backend: str, run: Callable[[np.ndarray], Any]
) -> Callable[[np.ndarray], list[Answer]]:
    """Return the function that gives the checked outputs of each image."""

    def answers(inputs: np.ndarray) -> list[Answer]:
        with running(artifact, backend):
            found = run(inputs)
        check_answer(found, artifact, backend)
        if artifact.card.task == "any":
            given: list[Answer] = found
            return given
        return [(row,) for row in judging.as_logits(found, artifact.card.answers)]

    return answers


def _pairs(
    folder: ImageFolder, first: Preprocess, second: Preprocess, batch: int, unreadable: Unreadable
) -> Iterator[tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
    """Yield files, and the inputs of both networks; images that both see alike are decoded once."""
    if view(first) == view(second):
        for part in batches(folder, replace(first, folded=True), batch=batch, label="Comparing", unreadable=unreadable):
            yield part.files, first.normalize(part.inputs), second.normalize(part.inputs)
        return
    own: Iterator[Batch] = batches(folder, first, batch=batch, label="Comparing", unreadable=unreadable)
    others = batches(folder, second, batch=batch, unreadable=Unreadable(len(folder)))
    for part, other in zip(own, others, strict=True):
        yield part.files, part.inputs, other.inputs
