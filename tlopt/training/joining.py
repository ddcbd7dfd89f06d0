"""Labelled images and others with answers in place of labels, in one epoch."""

from __future__ import annotations

import numpy as np

from tlopt.images.pixels import Pixels

MOST = 3.0  # images without labels in an epoch for each labelled one; see docs/results.md


def length(labels: np.ndarray, beside: Pixels | None) -> int:
    """Return the images of an epoch: labels, int64 (n,), are those of the labelled ones."""
    return len(labels) + (0 if beside is None else int(_more(labels, len(beside.folder)).sum()))


def joined(labels: np.ndarray, beside: Pixels, chance: np.random.Generator) -> np.ndarray:
    """Return the images of an epoch, int64 (`length`,): positions of labelled images, then n + those of the others.

    Every labelled image is among them, and others drawn at random. Each class keeps the share that it has of the
    labelled images: one of which too few others are at hand has its labelled images repeated instead. So what the
    others show more often does not become more likely.

    Args:
        labels: int64 (n,), of the labelled images.
        beside: The others; the likeliest class stands for the label.
        chance: Of the draw.
    """
    chosen = [np.arange(len(labels))]
    for label, more in enumerate(_more(labels, len(beside.folder)).tolist()):
        own, others = (np.flatnonzero(given == label) for given in (labels, beside.folder.labels))
        drawn = chance.permutation(others)[:more]
        chosen += [len(labels) + drawn, np.resize(chance.permutation(own), more - len(drawn))]
    return np.concatenate(chosen)


def _more(labels: np.ndarray, others: int) -> np.ndarray:
    """Return how many images each class has in an epoch besides its labelled ones, int64 (classes,)."""
    counts = np.bincount(labels)
    more: np.ndarray = np.round(counts * min(MOST, others / len(labels))).astype(np.int64)
    return more
