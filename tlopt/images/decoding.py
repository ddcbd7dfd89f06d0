"""From labelled files to batches, decoded by threads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tlopt.errors import ImagesError
from tlopt.images.folder import ImageFolder
from tlopt.images.ordered import decoders, ordered
from tlopt.preprocess import Preprocess, Views
from tlopt.progress import track
from tlopt.reading.image_files import read_image

log = logging.getLogger(__name__)

MAX_UNREADABLE = 0.1  # share of unreadable images above which work stops


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some images, ready for a network.

    Args:
        inputs: What `Preprocess.normalize` returns: float32 (n, 3, h, w) unless the layout or
            folding says otherwise. With k views of each image n is k times as large, and the views of
            one image follow one another.
        labels: int64, one per image.
        files: The images' paths relative to their folder.
    """

    inputs: np.ndarray
    labels: np.ndarray
    files: tuple[str, ...]


@dataclass
class Unreadable:
    """The images that could not be read, each with its reason; grows as decoding goes on.

    Args:
        total: The number of all images.
        reasons: File -> why it cannot be read.
        quiet: Do not warn of each.
        share: Of the images, that may be unreadable.
    """

    total: int
    reasons: dict[str, str] = field(default_factory=dict)
    quiet: bool = False
    share: float = MAX_UNREADABLE

    def add(self, file: str, reason: str) -> None:
        """Record one, and stop the work if they are too many. One alone is always allowed.

        Raises:
            ImagesError: More than the share of the images are unreadable, or all are.
        """
        if self.total == 1:
            raise ImagesError(reason)
        if file not in self.reasons and not self.quiet:
            log.warning("left out: %s", reason)
        self.reasons[file] = reason
        if len(self.reasons) == self.total or len(self.reasons) > max(1, self.share * self.total):
            most = f", and more than {self.share:.0%} is too many to go on" if self.share < 1 else ""
            raise ImagesError(
                f"{len(self.reasons)} of the {self.total} images cannot be read{most}; first: "
                f"{next(iter(self.reasons.values()))}",
                hint="Replace them or move them away. Of images in class folders, tlopt data audit lists them, and "
                "--fix writes a copy without them.",
            )


def batches(
    folder: ImageFolder,
    preprocess: Preprocess,
    *,
    batch: int,
    label: str = "",
    unreadable: Unreadable | None = None,
    views: Views = "center",
) -> Iterator[Batch]:
    """Yield all images in order, decoded by threads and preprocessed.

    Args:
        folder: The images.
        preprocess: How a file becomes an input.
        batch: Images per batch; the last may be smaller.
        label: Name of the progress bar; none is shown if empty.
        unreadable: Collects the images left out.
        views: What is cut out of each image.

    Raises:
        ImagesError: More than a tenth of the images are unreadable.
    """
    left_out = unreadable if unreadable is not None else Unreadable(len(folder))

    def decode(index: int) -> np.ndarray | ImagesError:
        return _decoded(folder, preprocess, index, views)

    # So far ahead that whatever takes a batch finds the next one ready.
    decoded: Iterator[np.ndarray | ImagesError] = ordered(
        decode, range(len(folder)), workers=decoders(), ahead=2 * batch
    )
    if label:
        decoded = track(decoded, label=label, total=len(folder))
    kept: list[int] = []
    stack: list[np.ndarray] = []
    for index, result in enumerate(decoded):
        if isinstance(result, ImagesError):
            left_out.add(folder.files[index], result.message)
            continue
        kept.append(index)
        stack.append(result)
        if len(kept) == batch:
            yield _batch(folder, preprocess, kept, stack)
            kept, stack = [], []
    if kept:
        yield _batch(folder, preprocess, kept, stack)


def read_batch(
    folder: ImageFolder, preprocess: Preprocess, indices: Sequence[int], *, views: Views = "center"
) -> tuple[Batch | None, dict[str, str]]:
    """Decode some images in the calling thread.

    Returns:
        The batch, None if nothing in it can be read, and file -> reason of what cannot.
    """
    kept: list[int] = []
    stack: list[np.ndarray] = []
    reasons: dict[str, str] = {}
    for index in indices:
        result = _decoded(folder, preprocess, index, views)
        if isinstance(result, ImagesError):
            reasons[folder.files[index]] = result.message
        else:
            kept.append(index)
            stack.append(result)
    return _batch(folder, preprocess, kept, stack) if kept else None, reasons


def _decoded(folder: ImageFolder, preprocess: Preprocess, index: int, views: Views) -> np.ndarray | ImagesError:
    """Return one image's views: uint8 (k, size, size, 3); or why it cannot be read."""
    path = folder.path / folder.files[index]
    try:
        image = read_image(path)
        try:
            return preprocess.views(image, views)
        except ImagesError as error:
            return ImagesError(f"{path}: {error.message}")
    except ImagesError as error:
        return error


def _batch(folder: ImageFolder, preprocess: Preprocess, kept: list[int], stack: list[np.ndarray]) -> Batch:
    return Batch(
        inputs=preprocess.normalize(np.concatenate(stack)),
        labels=folder.labels[kept],
        files=tuple(folder.files[i] for i in kept),
    )
