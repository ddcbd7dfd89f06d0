"""The folder of decoded images: sets of pixels with an index each, shared by the runs of a machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tlopt.errors import StageError
from tlopt.images.folder import ImageFolder
from tlopt.preprocess import Preprocess
from tlopt.publishing import write_whole
from tlopt.reading.files import open_regular

log = logging.getLogger(__name__)

NOT_KEPT = -1  # in place of an offset: the image did not fit in
UNKNOWN, UNREADABLE = -1, 0  # in place of a height: not decoded yet, cannot be read
_VERSION = 2  # of the file format and of what `Preprocess.resized` does
COLUMNS = 4  # of an index: offset in bytes, height, width, checksum of the pixels

# The folder may be one of the user's, with files of the same kinds. Ours are called by a digest.
_OURS = re.compile(r"[0-9a-f]{32}\.(u8|npz|part|lock)")
# The last two are of tlopt 0.1.
_SCRATCH = re.compile(r"\.[0-9a-f]{32}\.(json|u8|npz)\.part-[0-9a-f]{8}|[0-9a-f]{32}\.json\.\d+|[0-9a-f]{32}\.\d+")


def key_of(folder: ImageFolder, preprocess: Preprocess) -> str:
    """Return the identity of a folder's decoded pixels."""
    geometry = f"{_VERSION} {preprocess.size} {preprocess.crop_ratio!r} {preprocess.interpolation}"
    return hashlib.sha256(f"{folder.digest}\0{geometry}".encode()).hexdigest()[:32]


def checksum(data: bytes | memoryview) -> int:
    """Return the checksum that tells damage to a cache; a gigabyte takes a second, or less."""
    return zlib.crc32(data)


def write_index(path: Path, places: np.ndarray, limit: float) -> None:
    """Write the index of a set of pixels, which makes it complete.

    Args:
        path: Of the set.
        places: int64 (n, `COLUMNS`).
        limit: Bytes that the set was allowed.

    Raises:
        OSError: It cannot be written.
    """
    header = {"places": places.tolist(), "limit": limit, "checksum": _of_index(places, limit)}
    write_whole(path.with_suffix(".json"), json.dumps(header).encode())


def open_set(path: Path, count: int, limit: float) -> tuple[int, np.ndarray] | None:
    """Open a complete set of pixels.

    A damaged one is reported, and one that lacks images for want of room is passed over where there is more now.

    Args:
        path: Of the set.
        count: Number of images that it must have.
        limit: Bytes that it may have now.

    Returns:
        The open file and the index, int64 (n, `COLUMNS`); None if there is no such set.
    """
    index = path.with_suffix(".json")
    try:
        with open_regular(index) as text:
            header = json.loads(text.read())
        places = np.array(header["places"], np.int64).reshape(-1, COLUMNS)
        allowed = float(header["limit"])
        sound = header["checksum"] == _of_index(places, allowed) and len(places) == count
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        sound = False
    if not sound:
        log.warning("%s is damaged: the images are decoded again.", index)
        return None
    inside = places[places[:, 0] != NOT_KEPT]
    if len(inside) < count and limit > allowed:
        return None
    file = _opened(path)
    end = int((inside[:, 0] + inside[:, 1] * inside[:, 2] * 3).max(initial=0))
    if file is None or os.fstat(file).st_size < end:
        log.warning("%s is damaged: the images are decoded again.", path)
        if file is not None:
            os.close(file)
        return None
    return file, places


def _of_index(places: np.ndarray, limit: float) -> int:
    return checksum(places.tobytes() + repr(float(limit)).encode())


def _opened(path: Path) -> int | None:
    """Open a set, to mend it where that is allowed; None if it is not there."""
    for flags in (os.O_RDWR, os.O_RDONLY):
        with contextlib.suppress(OSError):
            file = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
            os.utime(path)  # says when it was last used
            return file
    return None


def claim(path: Path) -> int | None:
    """Return the lock of the run that makes a set, None if another run makes it.

    Raises:
        StageError: The folder cannot be written.
    """
    file = path.with_suffix(".lock")
    with space(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            if not _locked(lock):
                os.close(lock)
                return None
            # Whoever makes room may have removed the file before it was locked.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), os.stat(file)):
                    return lock
            os.close(lock)


def make_room(root: Path, *, cache_gb: float, coming: int = 0) -> None:
    """Delete what the cache has not used for longest, images or features, until it and what is coming fit.

    What killed runs left is swept away.

    Args:
        root: The folder of the cache.
        cache_gb: Size the cache may have, 10^9 bytes.
        coming: Bytes about to be added.
    """
    _sweep(root)
    kept = []
    for file in _ours(root, "pixels/*.u8", "features/*.npz"):
        with contextlib.suppress(OSError):
            state = file.stat()
            kept.append((state.st_mtime, state.st_size, file))
    used = sum(size for _, size, _ in kept) + coming
    for _, size, file in sorted(kept):
        if used <= cache_gb * 1e9:
            return
        log.info("removing what was unused for longest from the cache: %s", file)
        # A run that has the file open goes on reading it; its space is freed when it ends.
        with contextlib.suppress(OSError):
            for path in (file.with_suffix(".json"), file):
                path.unlink(missing_ok=True)
        used -= size


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _ours(root: Path, *patterns: str) -> list[Path]:
    """Return the files of a cache that are where some patterns say."""
    return [file for pattern in patterns for file in root.glob(pattern) if _OURS.fullmatch(file.name)]


def _sweep(root: Path) -> None:
    """Delete what killed runs left: sets half made, their locks, and scratch files."""
    for file in _ours(root, "pixels/*.lock", "pixels/*.part"):
        if file.suffix == ".part" or not file.with_suffix(".u8").exists():
            _drop(file.with_suffix(".lock"), file.with_suffix(".part"))
    for folder in (root / "pixels", root / "features"):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in [entry for entry in entries if _SCRATCH.fullmatch(entry.name)]:
                _drop(Path(entry.path))


def _drop(lock: Path, *others: Path) -> None:
    """Delete a file, and others that it stands for, unless a running process holds its lock."""
    with contextlib.suppress(OSError):
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        try:
            if _locked(handle):
                for file in (*others, lock):
                    file.unlink(missing_ok=True)
        finally:
            os.close(handle)


@contextlib.contextmanager
def space(where: Path) -> Iterator[None]:
    """Say what helps where the disk is full or cannot be written.

    Raises:
        StageError: In the place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise StageError(
            f"Decoded images cannot be kept in {where}: {error.strerror or error}.",
            hint="Free space there, name another folder with --cache-dir, or keep none with --cache-gb 0.",
        ) from error
