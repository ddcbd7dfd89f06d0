"""What an artifact answers on some photos."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends import open_runner
from tlopt.measure.photos import Photos
from tlopt.progress import bar


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """An artifact's answers.

    Args:
        runner: Backend and device.
        logits: float32 (n, classes).
        labels: int64 (n,), the true classes as indices into the artifact's.
        files: The photos' paths, relative to their folder.
        images_per_s: Throughput from file to logits, decoding included; None if the photos had
            been decoded before.
        conditions: Of the runner.
    """

    runner: str
    logits: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    images_per_s: float | None
    conditions: Mapping[str, Any]

    @property
    def predicted(self) -> np.ndarray:
        """The top class of each photo, int64 (n,)."""
        top: np.ndarray = self.logits.argmax(axis=1)
        return top

    @property
    def correct(self) -> np.ndarray:
        """Whether the top class is the true one, bool (n,)."""
        right: np.ndarray = self.predicted == self.labels
        return right

    @property
    def probabilities(self) -> np.ndarray:
        """The softmax of the logits, float64 (n, classes)."""
        shifted = self.logits.astype(np.float64) - self.logits.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return result


def answer(
    artifact: Artifact, photos: Photos, *, backend: str = "", batch: int = 32, threads: int = 0, keep: bool = False
) -> Outputs:
    """Run an artifact over photos.

    Args:
        artifact: What to run.
        photos: What to run it on.
        backend: ``name`` or ``name:device``; empty for the kind's own.
        batch: Images per run.
        threads: Processor threads inside one run; 0 for one per core.
        keep: Keep the decoded photos for the next artifact.
    """
    preprocess = artifact.card.preprocess
    order = np.array([artifact.card.classes.index(name) for name in photos.folder.classes], dtype=np.int64)
    logits: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    files: list[str] = []
    with open_runner(artifact, backend, threads=threads) as runner:
        decoded = photos.cached(preprocess)
        started = time.perf_counter()
        with bar(f"{artifact.name} on {runner.name}", len(photos)) as shown:
            for chunk in photos.batches(preprocess, batch=batch, keep=keep):
                logits.append(runner(chunk.inputs))
                labels.append(order[chunk.labels])
                files += chunk.files
                shown.advance(len(chunk.files))
        seconds = time.perf_counter() - started
        return Outputs(
            runner=runner.name,
            logits=np.concatenate(logits) if logits else np.zeros((0, len(order)), np.float32),
            labels=np.concatenate(labels) if labels else np.zeros(0, np.int64),
            files=tuple(files),
            images_per_s=None if decoded else len(files) / seconds,
            conditions=runner.conditions,
        )
