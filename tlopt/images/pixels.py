"""Decoded images on disk: each image is decoded once, at the size training needs, and kept for later runs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tlopt.errors import ImagesError, StageError
from tlopt.images.cache import default_cache
from tlopt.images.decoding import Unreadable
from tlopt.images.folder import ImageFolder
from tlopt.images.ordered import ordered
from tlopt.preprocess import Preprocess, read_image
from tlopt.progress import bar

log = logging.getLogger(__name__)

_VERSION = 1  # of the file format and of what `Preprocess.resized` does
_LONGEST = 4  # ratio of the sides that is kept; random crops never reach the ends of a longer strip
_CHUNK = 4  # images that a thread decodes at a time

# What stands in place of a height: not decoded yet, cannot be read. In place of an offset: does not fit in.
_UNKNOWN, _UNREADABLE = -1, 0
_NOT_KEPT = -1

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
    """

    folder: ImageFolder
    preprocess: Preprocess
    unreadable: Unreadable
    _file: int
    _places: np.ndarray  # int64 (n, 3): offset in bytes, height, width; see `_UNKNOWN`, `_UNREADABLE`, `_NOT_KEPT`
    _publish: tuple[Path, int] | None = None  # where a finished cache goes, and its lock
    _limit: float = math.inf  # bytes that the file may have; images beyond are decoded each time
    _end: int = 0  # of the file, bytes
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _unknown: int = field(init=False)  # images not decoded yet
    _kept: np.ndarray | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._unknown = int((self._places[:, 1] == _UNKNOWN).sum())

    def __len__(self) -> int:
        """Return the number of images not known to be unreadable; all of them while none was decoded."""
        return len(self.kept)

    @property
    def kept(self) -> np.ndarray:
        """Positions in the folder of the images not known to be unreadable, int64 (n,)."""
        if self._kept is not None:
            return self._kept
        kept = np.flatnonzero(self._places[:, 1] != _UNREADABLE)
        if not self._unknown:
            self._kept = kept
        return kept

    @property
    def labels(self) -> np.ndarray:
        """Labels of the images in `kept`, int64 (n,)."""
        labels: np.ndarray = self.folder.labels[self.kept]
        return labels

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the images in `kept`, relative to the folder."""
        return tuple(self.folder.files[i] for i in self.kept)

    @property
    def key(self) -> str:
        """Identity of the decoded pixels."""
        return _key(self.folder, self.preprocess)

    def at(self, position: int) -> np.ndarray | None:
        """Return the image at a position in the folder, decoded now if it was not yet; None if unreadable.

        Returns:
            uint8 (h, w, 3), RGB, its shorter side at ``size / crop_ratio``.

        Raises:
            ImagesError: More than a tenth of the images are unreadable.
            StageError: The disk that holds the file is full.
        """
        offset, height, width = self._places[position].tolist()
        if height == _UNREADABLE:
            return None
        if height == _UNKNOWN or offset == _NOT_KEPT:
            return self._decoded(position)
        data = os.pread(self._file, height * width * 3, offset)
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
            for position, one in zip(wanted, ordered(crop, wanted, chunk=_CHUNK), strict=True):
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
            missing = np.flatnonzero(self._places[:, 1] == _UNKNOWN)
            for _ in self.fill(batch=64, label=label, positions=missing):
                pass
        return self

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
                self._note(position, (0, _UNREADABLE, 0))
            return None
        height, width = image.shape[:2]
        with self._lock:
            room = self._places[position, 1] == _UNKNOWN and self._end + image.nbytes <= self._limit
            offset = self._end if room else _NOT_KEPT
            if offset != _NOT_KEPT:
                self._end += image.nbytes
        if offset != _NOT_KEPT:
            with _space(self._publish[0].parent if self._publish else Path(tempfile.gettempdir())):
                os.pwrite(self._file, np.ascontiguousarray(image).data, offset)
        with self._lock:
            self._note(position, (offset, height, width))
        return image

    def _note(self, position: int, place: tuple[int, int, int]) -> None:
        """Note where an image lies, once it does; after the last one, publish the cache."""
        if self._places[position, 1] != _UNKNOWN:
            return
        self._places[position] = place
        self._unknown -= 1
        if self._unknown or self._publish is None:
            return
        path, lock = self._publish
        with _space(path.parent):
            header = {"places": self._places.tolist(), "limit": self._limit}
            text = path.with_suffix(f".json.{os.getpid()}")
            text.write_text(json.dumps(header), encoding="utf-8")
            # The index comes last: a cache without one is not complete and is made anew.
            path.with_suffix(".part").rename(path)
            text.rename(path.with_suffix(".json"))
        os.close(lock)
        self._publish = None


def _shortened(image: np.ndarray) -> np.ndarray:
    """Cut the ends off a long strip, evenly and so that its central crop stays the same pixels."""
    height, width = image.shape[:2]
    most = _LONGEST * min(height, width)
    # An even number on each side keeps the rounding of the crop's position as it was.
    top, left = max(0, height - most) // 4 * 2, max(0, width - most) // 4 * 2
    return image[top : height - top, left : width - left]


def open_pixels(
    folder: ImageFolder,
    preprocess: Preprocess,
    *,
    cache: Path | None = None,
    cache_gb: float = 20.0,
) -> Pixels:
    """Open the decoded images of a folder: from the cache, or an empty file that `Pixels.fill` fills.

    The cache is keyed by what the images hold and how they are resized. Runs that need the same one
    at the same time share it once it is complete; until then one run fills it and the others work
    on files of their own, which they drop at the end. Images that do not fit into `cache_gb` are
    decoded each time.

    Args:
        folder: The images.
        preprocess: How a file becomes an input.
        cache: Folder that decoded images are kept in; None for `default_cache`.
        cache_gb: Size the cache may grow to, 10^9 bytes; the sets unused for longest go first.
            0 keeps nothing.

    Raises:
        StageError: The cache folder cannot be written.
    """
    root = (cache or default_cache()) / "pixels"
    path = root / f"{_key(folder, preprocess)}.u8"
    places = np.full((len(folder), 3), _UNKNOWN, np.int64)
    unreadable = Unreadable(len(folder))
    if cache_gb <= 0:
        return Pixels(
            folder=folder,
            preprocess=preprocess,
            unreadable=unreadable,
            _file=_anonymous(),
            _places=places,
        )
    with _space(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    if (stored := _open_stored(path, folder, preprocess, cache_gb * 1e9)) is not None:
        os.close(lock)
        make_room(root.parent, cache_gb=cache_gb)
        return stored
    if not _locked(lock):
        # Another run is filling it.
        os.close(lock)
        return open_pixels(folder, preprocess, cache_gb=0)
    if (stored := _open_stored(path, folder, preprocess, cache_gb * 1e9)) is not None:
        # Another run finished it a moment ago.
        os.close(lock)
        return stored
    make_room(root.parent, cache_gb=cache_gb, coming=_expected_bytes(folder, preprocess))
    file = os.open(path.with_suffix(".part"), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    return Pixels(
        folder=folder,
        preprocess=preprocess,
        unreadable=unreadable,
        _file=file,
        _places=places,
        _publish=(path, lock),
        _limit=cache_gb * 1e9,
    )


def _open_stored(path: Path, folder: ImageFolder, preprocess: Preprocess, limit: float) -> Pixels | None:
    """Return a complete set, None if there is none, or one made with less room that lacks images for want of it."""
    try:
        header = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        file = os.open(path, os.O_RDONLY)
        places = np.array(header["places"], np.int64).reshape(-1, 3)
    except (OSError, ValueError, KeyError):
        return None
    os.utime(path)  # says when it was last used
    inside = places[places[:, 0] != _NOT_KEPT]
    end = int((inside[:, 0] + inside[:, 1] * inside[:, 2] * 3).max(initial=0))
    short = len(inside) < len(places) and limit > header.get("limit", 0)
    if len(places) != len(folder) or os.fstat(file).st_size < end or short:
        os.close(file)
        return None
    # What could not be read then is tried again, and decoded each time if it can be now.
    places[places[:, 1] == _UNREADABLE] = _UNKNOWN
    unreadable = Unreadable(len(folder))
    return Pixels(folder=folder, preprocess=preprocess, unreadable=unreadable, _file=file, _places=places, _limit=0)


def make_room(root: Path, *, cache_gb: float, coming: int = 0) -> None:
    """Delete what the cache has not used for longest, images or features, until it and what is coming fit.

    Args:
        root: The folder of the cache.
        cache_gb: Size the cache may have, 10^9 bytes.
        coming: Bytes about to be added.
    """
    for part in root.glob("pixels/*.part"):
        _drop_abandoned(part)
    kept = []
    for file in (*root.glob("pixels/*.u8"), *root.glob("features/*.npz")):
        with contextlib.suppress(OSError):
            state = file.stat()
            kept.append((state.st_mtime, state.st_size, file))
    used = sum(size for _, size, _ in kept) + coming
    for _, size, file in sorted(kept):
        if used <= cache_gb * 1e9:
            return
        log.info("dropping what was not used for longest: %s", file)
        # A run that has the file open goes on reading it; its space is freed when it ends.
        for path in (file.with_suffix(".json"), file, file.with_suffix(".lock")):
            path.unlink(missing_ok=True)
        used -= size


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _drop_abandoned(part: Path) -> None:
    """Delete what a killed run left of its set."""
    with contextlib.suppress(OSError):
        lock = os.open(part.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
        if _locked(lock):
            part.unlink(missing_ok=True)
        os.close(lock)


def _key(folder: ImageFolder, preprocess: Preprocess) -> str:
    geometry = f"{_VERSION} {preprocess.size} {preprocess.crop_ratio!r} {preprocess.interpolation}"
    return hashlib.sha256(f"{folder.digest}\0{geometry}".encode()).hexdigest()[:32]


def _expected_bytes(folder: ImageFolder, preprocess: Preprocess) -> int:
    """Return the size of the decoded set if all photos had sides of 4 to 3."""
    return int(len(folder) * (preprocess.size / preprocess.crop_ratio) ** 2 * 3 * 4 / 3)


def _anonymous() -> int:
    """Open a file without a name, which vanishes when it is closed."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@contextlib.contextmanager
def _space(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StageError(
            f"Decoded images cannot be kept in {where}: {error.strerror or error}.",
            hint="Free space there, name another folder with --cache-dir, or keep none with --cache-gb 0.",
        ) from error
