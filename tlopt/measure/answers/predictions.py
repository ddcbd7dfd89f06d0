"""What an artifact answers on some images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends import Runner, open_runner
from tlopt.backends._logits import check_logits
from tlopt.cards.details import AnswerKind
from tlopt.images import Unreadable
from tlopt.judging import probabilities
from tlopt.measure.answers.answering import Answers, answers, callers
from tlopt.measure.answers.images import ImagePart
from tlopt.measure.candidates import running
from tlopt.preprocess import Views
from tlopt.progress import bar


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """An artifact's answers.

    Args:
        runner: Backend and device.
        logits: float32 (n, classes), what the network answers.
        labels: int64 (n,), the true classes as indices into the artifact's.
        files: The images' paths, relative to their folder.
        images_per_s: Throughput from file to logits, decoding included; None if the images had
            been decoded before.
        conditions: Of the runner.
        kind: What the network's numbers mean.
    """

    runner: str
    logits: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    images_per_s: float | None
    conditions: Mapping[str, Any]
    kind: AnswerKind = "logits"

    @property
    def predicted(self) -> np.ndarray:
        """The top class of each image, int64 (n,)."""
        top: np.ndarray = self.logits.argmax(axis=1)
        return top

    @property
    def correct(self) -> np.ndarray:
        """Whether the top class is the true one, bool (n,)."""
        right: np.ndarray = self.predicted == self.labels
        return right

    @property
    def probabilities(self) -> np.ndarray:
        """The probability of each class, float64 (n, classes)."""
        return probabilities(self.logits, self.kind)


def answer(
    artifact: Artifact,
    opened: ImagePart,
    *,
    backend: str = "",
    batch: int = 32,
    threads: int = 0,
    keep: bool = False,
    views: Views = "center",
) -> Outputs:
    """Run an artifact over images.

    Args:
        artifact: What to run.
        opened: What to run it on.
        backend: ``name`` or ``name:device``; empty for the kind's own.
        batch: Most images per run.
        threads: Processor threads; 0 for one per core.
        keep: Keep the decoded images for the next artifact.
        views: What is shown of each image; the probabilities of several views are averaged, and
            nothing is kept.
    """
    preprocess = artifact.card.preprocess
    order = np.array([artifact.card.classes.index(name) for name in opened.folder.classes], dtype=np.int64)
    decoded = views == "center" and opened.cached(preprocess)
    at_once = 1 if decoded or (keep and views == "center") else callers(len(opened), threads)
    found: list[Answers] = []
    with open_runner(artifact, backend, threads=threads, callers=at_once) as runner:
        started = time.perf_counter()
        with running(artifact, runner.name), bar(f"{artifact.name} on {runner.name}", len(opened)) as shown:
            for chunk in _answers(runner, artifact, opened, batch, keep=keep, views=views):
                check_logits(chunk.logits, artifact, runner.name)
                found.append(chunk)
                shown.advance(len(chunk.files))
        seconds = time.perf_counter() - started
        count = sum(len(chunk.files) for chunk in found)
        return Outputs(
            runner=runner.name,
            logits=np.concatenate([chunk.logits for chunk in found])
            if found
            else np.zeros((0, len(order)), np.float32),
            labels=order[np.concatenate([chunk.labels for chunk in found])] if found else np.zeros(0, np.int64),
            files=tuple(file for chunk in found for file in chunk.files),
            images_per_s=None if decoded else count / seconds,
            conditions=runner.conditions,
            kind=artifact.card.answers,
        )


def _answers(
    runner: Runner, artifact: Artifact, opened: ImagePart, batch: int, *, keep: bool, views: Views
) -> Iterator[Answers]:
    preprocess, kind = artifact.card.preprocess, artifact.card.answers
    if views == "center" and (keep or opened.cached(preprocess)):
        for chunk in opened.batches(preprocess, batch=batch, keep=keep):
            yield Answers(files=chunk.files, labels=chunk.labels, logits=runner(chunk.inputs))
        return
    unreadable = Unreadable(len(opened))
    found = answers(runner, opened.folder, preprocess, batch=batch, unreadable=unreadable, views=views, kind=kind)
    yield from found
    opened.unreadable = unreadable.reasons
