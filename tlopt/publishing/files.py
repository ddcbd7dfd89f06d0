"""Single files: written beside their place, and renamed when they are on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from tlopt.errors import OutputExistsError
from tlopt.process.temporary import locked
from tlopt.publishing.claims import OF_THE_DISK, unwritable
from tlopt.publishing.drafts import sync
from tlopt.publishing.kinds import Kind
from tlopt.publishing.marks import MARKS, contents
from tlopt.publishing.places import refuse_tilde
from tlopt.reading.files import IrregularFileError, irregular


def write_whole(
    file: str | Path, content: str | bytes, *, errors: str = "surrogateescape", special: bool = False
) -> None:
    """Write a file; whatever interrupts this, it is the old one or the new one.

    Args:
        file: The file. Missing folders above it are made.
        content: Text is written as UTF-8.
        errors: What becomes of characters that UTF-8 lacks, as those of a file name in another encoding.
        special: Write into a pipe or a device, as for a file that a person named.

    Raises:
        IrregularFileError: A pipe, a device or the like is in its place.
        OSError: It cannot be written.
    """
    with writing(file, special=special) as scratch, scratch.open("wb") as handle:
        handle.write(content.encode(errors=errors) if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(file: str | Path, *, special: bool = False) -> Iterator[Path]:
    """Yield the path of an empty file that takes the place of `file` if the block succeeds.

    A link is followed. The mode of the old file is kept, and its owner where that may be.

    Args:
        file: The file.
        special: Write into a pipe or a device directly, as for a file that a person named. Others would let a command
            wait for ever.

    Raises:
        IrregularFileError: A pipe, a device or the like is in its place.
        OSError: It cannot be written.
    """
    old = _old(Path(file))
    if old is not None and not stat.S_ISREG(old.st_mode):
        if not (special and _streams(old.st_mode)):
            raise IrregularFileError(file, f"is {irregular(old.st_mode)}, no regular file")
        with _told_of(Path(file), file):
            yield Path(file)  # a link to the pipe of a process has no other name
        return
    target = Path(os.path.realpath(file))
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    scratch, handle = _open(target, file)
    try:
        if old is not None:
            with contextlib.suppress(OSError):  # only root may give a file away
                os.fchown(handle, old.st_uid, old.st_gid)
            os.fchmod(handle, stat.S_IMODE(old.st_mode))
        with _told_of(scratch, file):
            yield scratch
            sync(scratch)
            scratch.replace(target)
        sync(target.parent)
    finally:
        scratch.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def _told_of(scratch: Path, file: str | Path) -> Iterator[None]:
    """Have failures name the file that the user knows, not the one that is written beside it."""
    try:
        yield
    except OSError as error:
        if error.filename in (scratch, str(scratch)) or (
            error.filename is None and error.errno in (*OF_THE_DISK, errno.EPIPE)
        ):
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise


def check_file(file: str | Path, *, makes: Kind, force: bool = True, reads: Iterable[str | Path] = ()) -> None:
    """Refuse an output file that would replace what the command reads or what no such command wrote.

    It is refused, too, if it could not be written after the work.

    Args:
        file: The file to write.
        makes: What is written: it replaces an empty file, and an older one of its kind.
        force: Replace that.
        reads: What the command reads: files and folders.

    Raises:
        OutputExistsError: It would, or it is there and `force` is not set.
        OutputError: It cannot be written.
    """
    file = Path(file)
    refuse_tilde(file)
    try:
        _try(file)
    except OSError as error:
        raise unwritable(file, error) from error
    if not file.exists():  # a link that leads nowhere is followed: the file is made there
        return
    if file.is_dir():
        raise OutputExistsError(f"{file} is a folder.", hint="Name a file in it.")
    if not file.is_file():
        if not _streams(mode := file.stat().st_mode):
            raise OutputExistsError(f"{file} is {irregular(mode)}, no regular file.", hint="Choose another file.")
        return
    real = Path(os.path.realpath(file))
    for read in map(Path, reads):
        if read.exists() and read.samefile(file):
            raise OutputExistsError(f"{file} is what this command reads.", hint="Choose another file.")
        inside = real.is_relative_to(os.path.realpath(read))
        if inside and real.suffix.lower() not in _TABLES:
            raise OutputExistsError(f"{file} lies in {read}, which this command reads.", hint="Choose another file.")
    _refuse_others(file, real, makes)
    if not force:
        raise OutputExistsError(f"{file} exists already.", hint="Choose another file, or add --force to replace it.")


def _refuse_others(file: Path, real: Path, makes: Kind) -> None:
    """Refuse a file that is a part of what tlopt made, or that cannot be what an earlier command wrote there.

    Args:
        file: What the user calls it.
        real: Where it is.
        makes: What is written.
    """
    for folder in real.parents[:_DEEPEST]:
        held = contents(folder) if any((folder / mark.file).is_file() for mark in MARKS) else None
        if held and held.mark and str(real.relative_to(folder)) in held.owned:
            raise OutputExistsError(f"{file} belongs to {held.mark.what}, {folder}.", hint="Choose another file.")
    if not makes.may_replace(file):
        raise OutputExistsError(
            f"{file} exists already, and is not {makes.what}: it would be lost.",
            hint="Name another file, or remove this one first.",
        )


_TABLES = frozenset({".csv", ".md", ".markdown", ".txt", ".html", ".json"})  # what an earlier run may have written
_DEEPEST = 3  # folders that a file of a set or an artifact lies below: part, class and the set itself


def _streams(mode: int) -> bool:
    """Return whether what is no regular file takes what is written to it: a pipe, or a device without a content."""
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _old(target: Path) -> os.stat_result | None:
    """Return the state of what is at a path, None if nothing is.

    Raises:
        PermissionError: It is protected from being written.
    """
    try:
        found = target.stat()
    except FileNotFoundError:
        return None
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    return found


def _try(file: Path) -> None:
    """Find out whether a file can be written; nothing of it stays.

    Raises:
        OSError: It cannot be.
    """
    old = _old(file)
    if old is not None and not stat.S_ISREG(old.st_mode):
        return
    target = Path(os.path.realpath(file))
    if target.parent.is_dir():
        scratch, handle = _open(target, file)
        os.close(handle)
        scratch.unlink()
        return
    # Folders that are missing are made with the file, not for a trial of it.
    above = next(folder for folder in target.parents if folder.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"you may not write into {above}", str(file))


def _open(target: Path, file: str | Path) -> tuple[Path, int]:
    """Make a file beside another one and lock it, which keeps it from being swept away.

    Args:
        target: The other one.
        file: What the user calls it, for errors.
    """
    while True:
        scratch = target.with_name(f".{target.name}.part-{secrets.token_hex(4)}")
        try:
            with _told_of(scratch, file):
                handle = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        try:
            if locked(handle, scratch):
                return scratch, handle
        except OSError:
            return scratch, handle  # no locks here, so nobody sweeps
        os.close(handle)


def _sweep(target: Path) -> None:
    """Remove what killed processes left of this file."""
    name = re.compile(rf"\.{re.escape(target.name)}\.part-[0-9a-f]{{8}}")
    with os.scandir(target.parent) as entries:
        left = [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]
    for file in left:
        with contextlib.suppress(OSError):
            handle = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if locked(handle, file):
                    file.unlink()
            finally:
                os.close(handle)
