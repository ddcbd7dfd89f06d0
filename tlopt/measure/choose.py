"""Which backend runs an artifact fastest here without changing its answers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from tlopt import judging, registry
from tlopt.artifact import Artifact
from tlopt.backends import DEFAULT, load
from tlopt.environment import MOST_THREADS
from tlopt.errors import ImagesError, MissingLibraryError, StageError
from tlopt.measure.answers.images import ImagePart, open_part
from tlopt.measure.answers.predictions import Outputs, answer
from tlopt.measure.bench import bench
from tlopt.reports import Report, Scalar
from tlopt.settings import MOST_IN_BATCH, Setting, checked

log = logging.getLogger(__name__)

_IMAGES = 128  # enough to see a backend that computes something else


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The fastest backend whose answers agree.

    Args:
        backend: Its name and device.
        speed_up: How many times as fast as the kind's own backend.
        report: All that were tried.
    """

    backend: str
    speed_up: float
    report: Report

    def to_report(self) -> Report:
        """Return all that were tried, and which of them is chosen."""
        return self.report


@checked
def choose(
    artifact: str | Path | Artifact,
    *,
    images: Annotated[Path | None, Setting("Folder of labelled images. Default: the training images.")] = None,
    batch: Annotated[int, Setting("Images per run.", minimum=1, maximum=MOST_IN_BATCH)] = 1,
    seconds: Annotated[float, Setting("Time measured for each backend, in seconds.", minimum=0.01)] = 1.0,
    threads: Annotated[
        int, Setting("Processor threads of a run. 0 takes one per core.", minimum=0, maximum=MOST_THREADS)
    ] = 0,
    min_agreement: Annotated[
        float, Setting("Smallest share of equal answers that a backend must reach.", minimum=0, maximum=1)
    ] = 0.99,
    opened: ImagePart | None = None,
) -> Choice:
    """Find the backend that runs an artifact fastest here.

    All backends and devices that work here are tried, except those that compile for minutes. Their
    answers must agree with those of the backend of the artifact's kind. Up to 128 images are
    compared. Without images only the speed decides, and a note says so.

    From Python:
        opened: Images that are open already; they are used instead of `images`.

    Raises:
        ArtifactError: The artifact is damaged, or no classifier.
        ImagesError: `images` cannot be used.
        StageError: Nothing here can run the artifact.
    """
    artifact = Artifact.load(artifact).expect_classifier("choose")
    tried = usable(artifact)
    if not tried:
        raise StageError(f"Nothing here can run {artifact.path}.", hint="tlopt doctor says what is missing.")
    if opened is None and (images is not None or artifact.card.images is not None):
        try:
            opened = open_part(artifact, images)
        except ImagesError as error:  # those of the training may be on another machine
            if images is not None:
                raise
            log.warning("The answers are not compared: %s", error.message)
    answers = {} if opened is None else _answers(artifact, _some(opened), tried, threads)
    timed = bench(
        [artifact], batch=(batch,), backend=tried, seconds=seconds, threads=threads, images=images, memory=False
    )
    own = next((row for row in timed.rows if "skipped" not in row), None)
    if own is None:
        raise StageError(f"Nothing here can run {artifact.path}: {timed.rows[0]['skipped']}")
    reference = answers.get(str(own["backend"]))
    rows: list[dict[str, Scalar]] = []
    for row in timed.rows:
        if "skipped" in row:
            rows.append(dict(row))
            continue
        outputs = answers.get(str(row["backend"]))
        agreement = _agreement(outputs, reference)
        rows.append(
            {
                **{name: row[name] for name in ("artifact", "backend", "batch", "p50_ms", "stderr_ms")},
                "speed_up": float(own["p50_ms"] or 0) / float(row["p50_ms"] or 1),
                "agreement": agreement,
                "passes": agreement is None or agreement >= min_agreement,
            }
        )
    passing = [row for row in rows if row.get("passes")]
    best = min(passing, key=lambda row: float(row["p50_ms"] or 0))
    chosen, speed_up = str(best["backend"]), float(best["speed_up"] or 1)
    usual = f"{speed_up:.2f} times as fast as {own['backend']}" if chosen != own["backend"] else "it is the usual one"
    said = f"{chosen} is the fastest that passes: {usual}."
    log.info("%s", said)
    unchecked = [] if reference is not None else ["There are no images, so the answers were not compared."]
    report = Report(
        title=f"{artifact.name}: {chosen}",
        rows=tuple(rows),
        notes=(said, *unchecked, *timed.notes),
        conditions=timed.conditions,
    )
    return Choice(backend=chosen, speed_up=speed_up, report=report)


def usable(artifact: Artifact) -> tuple[str, ...]:
    """Return the backends and devices that can run an artifact's kind here, the kind's own first."""
    kind = artifact.card.kind
    found = []
    for name in sorted(registry.names("backends"), key=lambda name: name != DEFAULT[kind]):
        try:
            module = load(name)
        except MissingLibraryError:
            continue
        if kind in module.READS:
            found += [
                f"{name}:{device}"
                for device in module.DEVICES
                if "compiled" not in device and not module.problem(device)
            ]
    return tuple(found)


def _answers(artifact: Artifact, opened: ImagePart, tried: tuple[str, ...], threads: int) -> dict[str, Outputs]:
    found = {}
    for backend in tried:
        try:
            found[backend] = answer(artifact, opened, backend=backend, threads=threads, keep=True)
        except StageError as error:
            log.info("%s: %s", backend, error.message)
    return found


def _some(opened: ImagePart) -> ImagePart:
    """Return some of the images, spread over all of them."""
    places = np.unique(np.linspace(0, len(opened) - 1, min(_IMAGES, len(opened))).round().astype(int))
    return ImagePart(opened.folder.select(places), opened.part)


def _agreement(outputs: Outputs | None, reference: Outputs | None) -> float | None:
    if outputs is None or reference is None:
        return None
    return judging.agreement(outputs.predicted, reference.predicted)
