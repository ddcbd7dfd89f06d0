"""How files are read: regular files only, never more of one than it may hold.

A pipe, a device or a socket in the place of a file would let a command wait for ever or fill the memory. All that
tlopt reads by a path it was given or found is opened here; what a library opens itself is checked here first.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from tlopt.errors import TloptError

TEXT_LIMIT = 64 << 20  # bytes of a card, a recipe, a list of class names: thousands of times what they need
TABLE_LIMIT = 4 << 30  # bytes of a table that says something of each image
# Bytes of an image. Decoded, a larger one would exceed the number of pixels that Pillow refuses as a bomb.
IMAGE_LIMIT = 2 << 30
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class IrregularFileError(TloptError, OSError):
    """What lies at a path is no regular file, or one that is larger than such a file may be.

    As an `OSError` it is handled wherever a file that cannot be read is.

    Args:
        path: The path.
        reason: What is wrong, as the rest of a sentence that begins with the path.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path} {reason}.")
        self.reason = reason
        self.strerror, self.filename = f"it {reason}", str(path)


def real_path(path: str | Path) -> Path:
    """Return the absolute path with links followed, as far as they lead; a loop of links is no error here.

    `Path.resolve` raises RuntimeError for such a loop before Python 3.13.
    """
    return Path(os.path.realpath(path))


def open_regular(path: str | Path, *, limit: int = 0) -> io.BufferedReader:
    """Open a regular file for reading; links are followed.

    Args:
        path: The file.
        limit: Most bytes that it may hold; 0 for any number.

    Raises:
        IrregularFileError: It is a pipe, a socket, a device or a folder, or it is too large.
        OSError: It is missing or may not be read.
    """
    return os.fdopen(open_descriptor(path, limit=limit), "rb")


def open_descriptor(path: str | Path, *, limit: int = 0) -> int:
    """Open a regular file as `open_regular` does; return its descriptor, which the caller closes.

    Raises:
        IrregularFileError: It is a pipe, a socket, a device or a folder, or it is too large.
        OSError: It is missing or may not be read.
    """
    # Looked at before it is opened: to open a device may already do something to it.
    _expect(path, os.stat(path), limit)
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise IrregularFileError(path, "is no regular file") from error
        raise
    try:
        _expect(path, os.fstat(descriptor), limit)
        return descriptor
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, *, limit: int = TEXT_LIMIT) -> bytes:
    """Return the content of a regular file.

    Raises:
        IrregularFileError: It is no regular file, or holds more than `limit` bytes.
        OSError: It is missing or may not be read.
    """
    with open_regular(path, limit=limit) as file:
        # Some regular files of /proc say that they are empty and never end.
        content = file.read(limit + 1)
    if len(content) > limit:
        raise IrregularFileError(path, _too_large(limit))
    return content


def read_text(path: str | Path, *, limit: int = TEXT_LIMIT, encoding: str = "utf-8") -> str:
    """Return the text of a regular file.

    Raises:
        IrregularFileError: It is no regular file, or holds more than `limit` bytes.
        OSError: It is missing or may not be read.
        UnicodeDecodeError: It is not in this encoding.
    """
    return read_bytes(path, limit=limit).decode(encoding)


def expect_regular(path: str | Path, *, limit: int = 0) -> None:
    """Check a file that a library is going to open by its path.

    Raises:
        IrregularFileError: It is no regular file, or holds more than `limit` bytes.
        OSError: It is missing.
    """
    _expect(path, os.stat(path), limit)


def irregular(mode: int) -> str:
    """Return what something that is no regular file is, by its `st_mode`; empty for a regular file."""
    for is_one, name in _KINDS.items():
        if is_one(mode):
            return name
    return "" if stat.S_ISREG(mode) else "something else"


_KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISDIR: "a folder",
}


def _expect(path: str | Path, found: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise IrregularFileError(path, f"is {irregular(found.st_mode)}, no regular file")
    if limit and found.st_size > limit:
        raise IrregularFileError(path, _too_large(limit))


def _too_large(limit: int) -> str:
    return f"is larger than {limit >> 20} MiB, the most that is read of such a file"
