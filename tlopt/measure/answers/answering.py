"""From image files to logits, as fast as decoding and the network let it be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tlopt.backends import Runner
from tlopt.cards.details import AnswerKind
from tlopt.environment import cores
from tlopt.images import Batch, ImageFolder, Unreadable, batches, ordered, read_batch
from tlopt.judging import mean_of_views
from tlopt.preprocess import Preprocess, Views

_TURNS = 4  # batches for each caller at least, so that none waits long for the last one


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What a network says about some images.

    Args:
        files: Their paths, relative to their folder.
        labels: int64 (n,).
        logits: float32 (n, classes), what the network answers; of several views, what says their mean probability.
    """

    files: tuple[str, ...]
    labels: np.ndarray
    logits: np.ndarray


def callers(images: int, threads: int) -> int:
    """Return how many threads should call a runner at once: one per core, each with images to work on."""
    return max(1, min(threads or cores(), images))


def answers(
    runner: Runner,
    folder: ImageFolder,
    preprocess: Preprocess,
    *,
    batch: int,
    unreadable: Unreadable,
    views: Views = "center",
    kind: AnswerKind = "logits",
) -> Iterator[Answers]:
    """Yield the answers on all images in order.

    Where several threads may call the runner, each decodes a batch and runs it on its own core: no
    core waits for another, which costs a network spread over cores a wait at every layer. A runner
    that takes one caller gets its batches decoded ahead by all cores.

    Args:
        runner: The network, open.
        folder: The images.
        preprocess: How a file becomes an input.
        batch: Most images per run.
        unreadable: Collects the images left out.
        views: What is shown of each image; the probabilities of several views are averaged.
        kind: What the network's numbers mean.

    Raises:
        ImagesError: More than a tenth of the images are unreadable.
    """
    if runner.callers == 1:
        for chunk in batches(folder, preprocess, batch=batch, unreadable=unreadable, views=views):
            yield _answer(runner, chunk, batch, kind)
        return

    def work(indices: Sequence[int]) -> tuple[Answers | None, dict[str, str]]:
        chunk, reasons = read_batch(folder, preprocess, indices, views=views)
        return None if chunk is None else _answer(runner, chunk, batch, kind), reasons

    size = min(batch, math.ceil(len(folder) / (_TURNS * runner.callers)))
    parts = [range(start, min(start + size, len(folder))) for start in range(0, len(folder), size)]
    for found, reasons in ordered(work, parts, workers=runner.callers):
        for file, reason in reasons.items():
            unreadable.add(file, reason)
        if found is not None:
            yield found


def _answer(runner: Runner, chunk: Batch, batch: int, kind: AnswerKind) -> Answers:
    runs = [runner(chunk.inputs[start : start + batch]) for start in range(0, len(chunk.inputs), batch)]
    logits = runs[0] if len(runs) == 1 else np.concatenate(runs)
    if len(logits) != len(chunk.files):
        logits = mean_of_views(logits.reshape(len(chunk.files), -1, logits.shape[1]), kind)
    return Answers(files=chunk.files, labels=chunk.labels, logits=logits)
