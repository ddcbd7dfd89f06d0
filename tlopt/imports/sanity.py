"""What a few images tell of a wrong assumption: answers that are all alike, or that say nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tlopt import judging
from tlopt.cards.details import AnswerKind
from tlopt.images import ImageFolder, batches
from tlopt.images.scanning import every_image, scan_any
from tlopt.outputs import Answer
from tlopt.preprocess import Preprocess

_IMAGES = 16
_FEWEST = 6  # images that may all show the same class by chance, below
_FLAT = 1.5  # times the probability of a class by chance


def look(images: Path, *, classifier: bool) -> Path:
    """Return a folder or a manifest if it holds images that can be looked at.

    Args:
        images: The folder or manifest.
        classifier: Whether they are for one. Class folders of other networks are folders like any.

    Raises:
        ImagesError: It holds none.
    """
    scan_any(images) if classifier else every_image(images)
    return images


def complaints(
    runner: Callable[[np.ndarray], np.ndarray],
    images: Path,
    preprocess: Preprocess,
    classes: tuple[str, ...],
    kind: AnswerKind,
) -> list[str]:
    """Return what is absurd in the answers to a few images, each as the rest of a sentence.

    Args:
        runner: A batch in, answers out.
        images: The folder.
        preprocess: How images become inputs.
        classes: In the order of the answers.
        kind: What the answers mean.
    """
    folder = scan_any(images, known=classes)
    parts = list(batches(_some(folder), preprocess, batch=1))
    answers = np.concatenate([runner(part.inputs) for part in parts])
    chances = judging.probabilities(answers, kind)
    top = answers.argmax(1)
    found = []
    if len(top) >= _FEWEST and len(set(top.tolist())) == 1:
        found.append(f"all {len(top)} images get the same answer, {classes[top[0]]}")
    if kind != "sigmoids" and chances.max(1).mean() < _FLAT / len(classes):
        found.append(f"the mean probability of the best class is only {chances.max(1).mean():.2g}")
    labels = np.concatenate([part.labels for part in parts])
    names = [folder.classes[label] if folder.classes else "" for label in labels]
    truth = np.array([classes.index(name) if name in classes else -1 for name in names])
    if len(top) >= _FEWEST and (truth >= 0).all() and (top == truth).mean() <= 1 / len(classes):
        found.append(f"{int((top == truth).sum())} of {len(top)} answers are right")
    return found


def alike(outputs: Callable[[np.ndarray], list[Answer]], images: Path, preprocess: Preprocess) -> list[str]:
    """Return what is absurd in the outputs for a few images, each as the rest of a sentence.

    Args:
        outputs: A batch in, every output of each image out.
        images: The folder.
        preprocess: How images become inputs.
    """
    answers = [outputs(part.inputs)[0] for part in batches(_some(every_image(images)), preprocess, batch=1)]
    same = all(np.array_equal(a, b) for other in answers[1:] for a, b in zip(answers[0], other, strict=True))
    return [f"all {len(answers)} images get the same outputs"] if len(answers) > 1 and same else []


def _some(folder: ImageFolder) -> ImageFolder:
    return folder.select(np.unique(np.linspace(0, len(folder) - 1, min(_IMAGES, len(folder)), dtype=int)))
