"""The images that artifacts are measured on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from tlopt.artifact import Artifact
from tlopt.errors import ImagesError
from tlopt.images import SPLITS, Batch, ImageFolder, Unreadable, batches
from tlopt.images.of_artifact import parts_of
from tlopt.preprocess import Preprocess

Part = Literal["test", "val", "train", "all"]


@dataclass
class ImagePart:
    """The images of one part of a folder, decoded once for all artifacts that see them alike.

    The pixels are kept as uint8 in memory while they fit into `keep_mb`; what does not fit is
    decoded again each time.

    Attributes:
        folder: The images; a label is an index into its classes.
        part: What they are of the whole.
        keep_mb: Memory for decoded pixels, 10^6 bytes.
        unreadable: File -> reason, of the images left out; known after the first pass.
    """

    folder: ImageFolder
    part: Part
    keep_mb: float = 1000.0
    unreadable: dict[str, str] = field(default_factory=dict)
    _kept: dict[tuple[object, ...], list[Batch]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.folder)

    def cached(self, preprocess: Preprocess) -> bool:
        """Return whether the pixels for this preprocessing are in memory."""
        return view(preprocess) in self._kept

    def batches(self, preprocess: Preprocess, *, batch: int, keep: bool = False, label: str = "") -> Iterator[Batch]:
        """Yield all images in order, as inputs of a network.

        Args:
            preprocess: How a file becomes an input.
            batch: Images per batch; the last may be smaller.
            keep: Keep the pixels for the next pass, if they fit.
            label: Name of the progress bar of decoding.
        """
        seen = view(preprocess)
        if seen not in self._kept and keep and self._fits(preprocess):
            pixels = replace(preprocess, folded=True)  # folded: the inputs are the pixels themselves
            self._kept[seen] = list(self._decode(pixels, 64, label))
        if seen not in self._kept:
            yield from self._decode(preprocess, batch, label)
            return
        for chunk in _rebatched(self._kept[seen], batch):
            yield replace(chunk, inputs=preprocess.normalize(chunk.inputs))

    def expect(self, artifact: Artifact) -> None:
        """Check that the images' classes are the artifact's.

        Raises:
            ImagesError: They are not.
        """
        classes, found = artifact.card.classes, self.folder.classes
        if set(classes) != set(found):
            raise ImagesError(
                f"The classes of {artifact.path} are not the classes of the images in {self.folder.path}.",
                hint="Measure artifacts with other classes in a command of their own.",
            )

    def _decode(self, preprocess: Preprocess, batch: int, label: str) -> Iterator[Batch]:
        found = Unreadable(len(self.folder))
        yield from batches(self.folder, preprocess, batch=batch, label=label, unreadable=found)
        self.unreadable = found.reasons

    def _fits(self, preprocess: Preprocess) -> bool:
        used = sum(chunk.inputs.nbytes for chunks in self._kept.values() for chunk in chunks)
        return used + len(self.folder) * math.prod(preprocess.sides) * 3 <= self.keep_mb * 1e6


def view(preprocess: Preprocess) -> tuple[object, ...]:
    """Return what decides the pixels of an image."""
    grey = preprocess.channels == "grey"
    return (preprocess.sides, preprocess.crop_ratio, preprocess.interpolation, preprocess.fit, grey)


def _rebatched(chunks: list[Batch], batch: int) -> Iterator[Batch]:
    """Yield the same images in batches of another size."""
    inputs: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    files: tuple[str, ...] = ()
    for chunk in chunks:
        start = 0
        while start < len(chunk.files):
            stop = min(len(chunk.files), start + batch - len(files))
            inputs.append(chunk.inputs[start:stop])
            labels.append(chunk.labels[start:stop])
            files += chunk.files[start:stop]
            start = stop
            if len(files) == batch:
                yield Batch(inputs=np.concatenate(inputs), labels=np.concatenate(labels), files=files)
                inputs, labels, files = [], [], ()
    if files:
        yield Batch(inputs=np.concatenate(inputs), labels=np.concatenate(labels), files=files)


def open_part(artifact: Artifact, images: Path | None = None, part: Part = "test", *, flat: bool = False) -> ImagePart:
    """Open the images to measure an artifact on.

    Without `images`, those it was trained on, split as they were then. With `images`, that
    folder: its own part of the name if it has parts on disk, otherwise all of it for the test. The
    training folder in another place is split as in training, too.

    Args:
        artifact: The artifact.
        images: The folder, or a manifest.
        part: Which of the images.
        flat: Take a folder without class folders, too; its images have no labels.

    Raises:
        ImagesError: There are none, they have changed, the part is empty, or their classes are
            not the artifact's.
    """
    parts = parts_of(artifact, images, labels="flat" if flat else "some")
    chosen = parts.whole if part == "all" else parts.divided[part]
    if not len(chosen):
        held = [name for name in SPLITS if len(parts.divided[name])]
        raise ImagesError(
            f"{parts.whole.path} has no {part} images.",
            hint=f"Choose --split {' or '.join(held or ['all'])}, or name another folder with --images.",
        )
    return ImagePart(chosen, "all" if len(chosen) == len(parts.whole) else part)
