"""Which images a network is calibrated on, which it is judged by, and the batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tlopt.errors import ImagesError
from tlopt.images import ImageFolder, batches
from tlopt.preprocess import Preprocess

ROUNDING = 128  # rounding weights needs fewer images than finding ranges
SEARCHED = 512  # training images, not calibrated on, that blocks to leave float are chosen by


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Calibration images as a network takes them, anew at each call.

    Args:
        images: The images.
        preprocess: How they become inputs.
        batch: How many run at once.
        fixed: Whether the graph takes no fewer.
    """

    images: ImageFolder
    preprocess: Preprocess
    batch: int
    fixed: bool

    def __call__(self, label: str = "", images: int | None = None) -> Iterator[np.ndarray]:
        """Yield the inputs of all images, or of the first so many: float32, or uint8 where the graph takes bytes.

        Args:
            label: Of the progress bar; none if empty.
            images: Their number.
        """
        some = self.images if images is None else self.images.select(range(min(images, len(self.images))))
        for found in batches(some, self.preprocess, batch=self.batch, label=label):
            # A graph of a fixed batch takes no fewer: the last one goes on with its first images again.
            yield np.resize(found.inputs, (self.batch, *found.inputs.shape[1:])) if self.fixed else found.inputs


def stratified(folder: ImageFolder, samples: int, seed: int) -> ImageFolder:
    """Return `samples` images, each class with its share of them, in a random order."""
    random = np.random.default_rng(seed)
    # A class's i-th of n images stands at (i + a random part of one) / n: the first so many of all
    # images in that order hold each class in proportion.
    place = np.empty(len(folder))
    for label in np.unique(folder.labels):
        members = random.permutation(np.flatnonzero(folder.labels == label))
        place[members] = (np.arange(len(members)) + random.random()) / len(members)
    return folder.select(random.permutation(np.argsort(place, kind="stable")[:samples]))


def divided(train: ImageFolder, samples: int, seed: int, *, searched: int) -> tuple[ImageFolder, ImageFolder]:
    """Return the images to calibrate on, and those that blocks to leave float are chosen by.

    Args:
        train: The training images.
        samples: Images to calibrate on.
        seed: Of the choice.
        searched: Most images that blocks are chosen by; 0 if none are chosen.

    Raises:
        ImagesError: There are too few for both.
    """
    if not searched:
        return stratified(train, samples, seed), train.select(range(0))
    unseen = min(searched, max(len(train) - samples, len(train) // 3))
    if not unseen:
        raise ImagesError(
            f"{len(train)} training images are too few to choose float blocks, which takes a third of them.",
            hint="Name a larger folder with --images, or leave --max-drop and --min-db out.",
        )
    chosen = stratified(train, min(samples, len(train) - unseen), seed)
    rest = np.flatnonzero(~np.isin(train.files, chosen.files))
    return chosen, stratified(train.select(rest), unseen, seed)
