"""Who is making an output: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from tlopt.errors import OutputError, OutputExistsError
from tlopt.process.temporary import locked

_PAUSE_S = 0.2  # between two looks at a lock
_NOTE_BYTES = 4096  # a whole block, so that a full disk is noticed before the work
_NOTE = b"process "  # how it begins
# Failures of the disk itself. They come without the name of a file, or with that of a file which was copied.
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock_file(place: Path) -> Path:
    """Return the file that is locked while a process makes `place`."""
    return place.with_name(f".{place.name}.lock")


def follows() -> bool:
    """Return whether torchrun started this process beside another one, which leads and makes the output."""
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    return rank.isdecimal() and world.isdecimal() and int(rank) > 0 and int(world) > 1


@contextlib.contextmanager
def claim(lock: Path, shown: str | Path) -> Iterator[bool]:
    """Hold a lock file for the length of the block, and remove it then.

    The block gets False where the file system knows no locks, and in a process that only follows another one: it
    must not tidy up then.

    Args:
        lock: The file.
        shown: How messages name what is being made.

    Raises:
        OutputExistsError: Another process holds it, or something else than a lock lies there.
        OutputError: The file cannot be written.
    """
    try:
        handle = None if follows() else _acquire(lock, shown)
    except OutputExistsError:
        raise
    except OSError as error:
        raise unwritable(shown, error) from error
    if handle is None:
        yield False
        return
    try:
        yield True
    finally:
        # Removed while it is still held: whoever opened it meanwhile sees that its name has gone.
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(handle)


def refuse_claimed(lock: Path, shown: str | Path) -> None:
    """Raise an error if another process holds a lock file.

    Raises:
        OutputExistsError: It does, or something else than a lock lies there.
    """
    if follows():
        return
    if os.path.lexists(lock) and not stat.S_ISREG(lock.lstat().st_mode):
        raise _in_the_way(lock, shown)
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(handle, shown) from None
    except OSError:
        return
    else:
        _refuse_foreign(handle, lock, shown)
    finally:
        os.close(handle)


def unwritable(shown: str | Path, error: OSError) -> OutputError:
    """Return the error that says why an output cannot be made."""
    return OutputError(f"{shown} cannot be made: {error.strerror or error}.", hint="Choose another place for it.")


def _acquire(lock: Path, shown: str | Path) -> int | None:
    """Return the locked file, None where the file system knows no locks."""
    while True:
        with contextlib.ExitStack() as opened:
            handle = _open(lock, shown)
            opened.callback(os.close, handle)
            try:
                mine = locked(handle, lock)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return None
            if mine:
                _refuse_foreign(handle, lock, shown)
                _sign(handle, lock)
                opened.pop_all()
                return handle
            # Not ours, and still the file of that name: another run has it. Else that run has just ended: once more.
            if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
                raise _taken(handle, shown)


def _open(lock: Path, shown: str | Path) -> int:
    if os.path.lexists(lock) and not stat.S_ISREG(lock.lstat().st_mode):
        raise _in_the_way(lock, shown)
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(lock, flags | os.O_RDWR, 0o666)
    except PermissionError:
        return os.open(lock, flags | os.O_RDONLY, 0o666)  # another user's, left by a killed run


def _refuse_foreign(handle: int, lock: Path, shown: str | Path) -> None:
    """Leave a file alone that no run wrote, though it has a lock's name."""
    if os.pread(handle, len(_NOTE), 0) not in (b"", _NOTE):  # empty if its run was killed before it had signed
        raise _in_the_way(lock, shown)


def _in_the_way(lock: Path, shown: str | Path) -> OutputExistsError:
    return OutputExistsError(
        f"{shown} cannot be made: {lock} is in the way, and is no lock of tlopt.",
        hint="Move it, or choose another --out.",
    )


def _sign(handle: int, lock: Path) -> None:
    """Say in the file who holds it."""
    note = (_NOTE + f"{os.getpid()} on {platform.node()}\n".encode(errors="replace")).ljust(_NOTE_BYTES)
    try:
        os.pwrite(handle, note, 0)
    except OSError as error:
        if error.errno == errno.EBADF:  # opened for reading only
            return
        lock.unlink(missing_ok=True)
        raise


def _taken(handle: int, shown: str | Path) -> OutputExistsError:
    with contextlib.suppress(OSError):
        holder = os.pread(handle, _NOTE_BYTES, 0).decode(errors="replace").strip()
        if holder.isprintable() and holder:
            return _busy(shown, f" ({holder})")
    return _busy(shown, "")


def _busy(shown: str | Path, holder: str) -> OutputExistsError:
    return OutputExistsError(
        f"Another run{holder} is making {shown} at this moment.",
        hint="Wait until it ends, or choose another --out.",
    )


def wait_claimed(lock: Path, shown: str | Path, *, patience_s: float) -> bool:
    """Wait until no other process holds a lock file; return whether one did.

    Args:
        lock: The file.
        shown: How messages name what is being made.
        patience_s: Seconds to wait at most; 0 for one look.

    Raises:
        OutputExistsError: It takes too long, or something else than a lock lies there.
    """
    until, waited = time.monotonic() + patience_s, False
    while True:
        try:
            refuse_claimed(lock, shown)
        except OutputExistsError:
            if time.monotonic() >= until:
                raise
            waited = True
            time.sleep(min(_PAUSE_S, patience_s))
        else:
            return waited
