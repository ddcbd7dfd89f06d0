"""Decoded images on disk: each image is decoded once, at the size training needs, and kept for later runs."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tlopt.errors import ImagesError
from tlopt.images.decoding import Unreadable
from tlopt.images.folder import ImageFolder
from tlopt.images.ordered import decoders, ordered
from tlopt.images.store import (
    NOT_KEPT,
    UNKNOWN,
    UNREADABLE,
    checksum,
    key_of,
    space,
    write_index,
)
from tlopt.preprocess import Preprocess
from tlopt.progress import bar
from tlopt.reading.image_files import read_image

log = logging.getLogger(__name__)

_LONGEST = 4  # ratio of the sides that is kept; random crops never reach the ends of a longer strip
_CHUNK = 4  # images that a thread decodes at a time

LARGE = 20_000  # images from which on decoding all of them before the first step would take minutes


@dataclass(kw_only=True)
class Pixels:
    """The images of a folder as `Preprocess.resized` returns them, uint8, in one file.

    An image is decoded when it is first asked for, by whichever thread, and read from the file from
    then on; `filled` decodes all of them. Images are read with ``pread``, so a file larger than the
    memory fills the system's page cache and not the process.

    Args:
        folder: The images.
        preprocess: How a file becomes an input.
        unreadable: The images left out.
        answers: What a network says of each image of the folder, probabilities, float32 (n, classes), where images
            have no labels; None where they have.
    """

    folder: ImageFolder
    preprocess: Preprocess
    unreadable: Unreadable
    answers: np.ndarray | None = field(default=None, repr=False)
    _file: int
    _places: np.ndarray  # int64 (n, `COLUMNS`): offset in bytes, height, width, checksum
    _stored: Path | None = None  # the cache that the file was opened from
    _publish: tuple[Path, int] | None = None  # where a finished cache goes, and its lock
    _limit: float = math.inf  # bytes that the file may have; images beyond are decoded each time
    _end: int = 0  # of the file, bytes
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _unknown: int = field(init=False)  # images not decoded yet
    _kept: np.ndarray | None = field(init=False, default=None)
    _doubtful: np.ndarray = field(init=False)  # bool (n,): of the cache, and not read yet

    def __post_init__(self) -> None:
        self._doubtful = np.full(len(self._places), self._stored is not None)
        self._unknown = int((self._places[:, 1] == UNKNOWN).sum())

    def __len__(self) -> int:
        """Return the number of images not known to be unreadable; all of them while none was decoded."""
        return len(self.kept)

    @property
    def kept(self) -> np.ndarray:
        """Positions in the folder of the images not known to be unreadable, int64 (n,)."""
        if self._kept is not None:
            return self._kept
        kept = np.flatnonzero(self._places[:, 1] != UNREADABLE)
        if not self._unknown:
            self._kept = kept
        return kept

    @property
    def labels(self) -> np.ndarray:
        """Labels of the images in `kept`, int64 (n,)."""
        labels: np.ndarray = self.folder.labels[self.kept]
        return labels

    @property
    def answered(self) -> np.ndarray | None:
        """The answers of the images in `kept`."""
        return None if self.answers is None else self.answers[self.kept]

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the images in `kept`, relative to the folder."""
        return tuple(self.folder.files[i] for i in self.kept)

    @property
    def key(self) -> str:
        """Identity of the decoded pixels."""
        return key_of(self.folder, self.preprocess)

    def at(self, position: int) -> np.ndarray | None:
        """Return the image at a position in the folder, decoded now if it was not yet; None if unreadable.

        Returns:
            uint8 (h, w, 3), RGB, its shorter side at ``size / crop_ratio``.

        Raises:
            ImagesError: More than a tenth of the images are unreadable.
            StageError: The disk that holds the file is full.
        """
        offset, height, width, expected = self._places[position].tolist()
        if height == UNREADABLE:
            return None
        if height == UNKNOWN or offset == NOT_KEPT:
            return self._decoded(position)
        data = os.pread(self._file, height * width * 3, offset)
        if self._doubtful[position]:
            if checksum(data) != expected:
                return self._mended(position)
            self._doubtful[position] = False
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def readable(self, position: int) -> tuple[np.ndarray, int]:
        """Return the image at a position in the folder, or the next one that is readable, and its position."""
        image = self.at(position)
        while image is None:
            position = (position + 1) % len(self.folder)
            image = self.at(position)
        return image, position

    def image(self, index: int) -> np.ndarray:
        """Return one readable image of filled ones, by its index in `kept`: see `at`."""
        image = self.at(int(self.kept[index]))
        assert image is not None
        return image

    def crop(self, index: int) -> np.ndarray:
        """Return the central crop of one readable image of filled ones: uint8 (size, size, 3)."""
        return self._crop(self.image(index))

    def fill(
        self, *, batch: int, label: str = "", positions: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the central crops of all readable images in order, decoding what is not decoded yet.

        Args:
            batch: Images per batch; the last may be smaller.
            label: Name of the progress bar; none is shown if empty.
            positions: Only these, int64 (m,), positions in the folder.

        Yields:
            Crops, uint8 (n, size, size, 3), and labels, int64 (n,).

        Raises:
            ImagesError: More than a tenth of the images are unreadable.
            StageError: The disk that holds the file is full.
        """
        wanted = (self.kept if positions is None else positions).tolist()

        def crop(position: int) -> np.ndarray | None:
            image = self.at(position)
            return None if image is None else self._crop(image)

        crops: list[np.ndarray] = []
        labels: list[int] = []
        with bar(label, len(wanted)) if label else contextlib.nullcontext() as shown:
            found = ordered(crop, wanted, workers=decoders(), chunk=_CHUNK)
            for position, one in zip(wanted, found, strict=True):
                if one is not None:
                    crops.append(one)
                    labels.append(int(self.folder.labels[position]))
                if shown is not None:
                    shown.advance()
                if len(crops) == batch:
                    yield np.stack(crops), np.array(labels, np.int64)
                    crops, labels = [], []
            if crops:
                yield np.stack(crops), np.array(labels, np.int64)

    def filled(self, *, label: str = "") -> Pixels:
        """Return self with every image decoded."""
        if self._unknown:
            missing = np.flatnonzero(self._places[:, 1] == UNKNOWN)
            for _ in self.fill(batch=64, label=label, positions=missing):
                pass
        return self

    def part(self, positions: np.ndarray) -> Pixels:
        """Return some of the images, by their positions in the folder; all have to be decoded, and are shared."""
        assert not self._unknown, "images are not decoded yet"
        return Pixels(
            folder=self.folder.select(positions),
            preprocess=self.preprocess,
            unreadable=Unreadable(len(positions)),
            answers=None if self.answers is None else self.answers[positions],
            _file=os.dup(self._file),
            _places=self._places[positions],
            _stored=self._stored,
            _limit=0,
        )

    def close(self) -> None:
        """Close the file; a cache that was not filled is dropped."""
        if self._publish is not None:
            path, lock = self._publish
            path.with_suffix(".part").unlink(missing_ok=True)
            os.close(lock)
            self._publish = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _crop(self, image: np.ndarray) -> np.ndarray:
        size = self.preprocess.size
        top, left = (round((side - size) / 2) for side in image.shape[:2])
        return image[top : top + size, left : left + size]

    def _decoded(self, position: int) -> np.ndarray | None:
        """Decode an image and keep it."""
        name = self.folder.files[position]
        try:
            image = _shortened(np.asarray(self.preprocess.resized(read_image(self.folder.path / name))))
        except ImagesError as error:
            with self._lock:
                self.unreadable.add(name, error.message)
                self._note(position, (0, UNREADABLE, 0, 0))
            return None
        height, width = image.shape[:2]
        with self._lock:
            room = self._places[position, 1] == UNKNOWN and self._end + image.nbytes <= self._limit
            offset = self._end if room else NOT_KEPT
            if offset != NOT_KEPT:
                self._end += image.nbytes
        if offset != NOT_KEPT:
            with space(self._publish[0].parent if self._publish else Path(tempfile.gettempdir())):
                os.pwrite(self._file, np.ascontiguousarray(image).data, offset)
        with self._lock:
            self._note(position, (offset, height, width, checksum(np.ascontiguousarray(image).data)))
        return image

    def _mended(self, position: int) -> np.ndarray | None:
        """Decode an image again whose pixels in the cache are damaged, and put it back there."""
        assert self._stored is not None
        with self._lock:
            mends = bool(self._doubtful[position])
            offset, *_, expected = self._places[position].tolist()
            if mends:
                self._doubtful[position] = False
                self._places[position] = (NOT_KEPT, UNKNOWN, 0, 0)
                self._unknown, self._kept = self._unknown + 1, None
        if not mends:  # another thread does
            return self.at(position)
        log.warning("%s is damaged: %s is decoded again.", self._stored, self.folder.files[position])
        image = self._decoded(position)
        if image is None or checksum(np.ascontiguousarray(image).data) != expected:
            # What was kept is of another decoder: all of it is made anew by the next run.
            self._stored.with_suffix(".json").unlink(missing_ok=True)
            return image
        with contextlib.suppress(OSError):
            os.pwrite(self._file, np.ascontiguousarray(image).data, offset)
            with self._lock:
                self._places[position] = (offset, *image.shape[:2], expected)
        return image

    def _note(self, position: int, place: tuple[int, int, int, int]) -> None:
        """Note where an image lies, once it does; after the last one, publish the cache."""
        if self._places[position, 1] != UNKNOWN:
            return
        self._places[position] = place
        self._unknown -= 1
        if self._unknown or self._publish is None:
            return
        path, lock = self._publish
        with space(path.parent):
            os.fsync(self._file)
            # The index comes last: a cache without one is not complete and is made anew.
            path.with_suffix(".json").unlink(missing_ok=True)
            path.with_suffix(".part").rename(path)
            write_index(path, self._places, self._limit)
        os.close(lock)
        self._publish = None


def _shortened(image: np.ndarray) -> np.ndarray:
    """Cut the ends off a long strip, evenly and so that its central crop stays the same pixels."""
    height, width = image.shape[:2]
    most = _LONGEST * min(height, width)
    # An even number on each side keeps the rounding of the crop's position as it was.
    top, left = max(0, height - most) // 4 * 2, max(0, width - most) // 4 * 2
    return image[top : height - top, left : width - left]
