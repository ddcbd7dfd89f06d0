"""Temporary folders: removed in the end, and those of processes that were killed by the next one that needs any.

Each is locked for as long as its process lives. The system releases the lock however the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tlopt.process import interrupts

_NAME = re.compile(r"tlopt-(?:[a-z]+-)?([0-9a-f]{16})")
SHARED_MEMORY = Path("/dev/shm")

interrupts.keep_whole(__file__)


@contextlib.contextmanager
def folder(kind: str = "") -> Iterator[Path]:
    """Yield a folder that is removed with all in it when the block ends.

    Args:
        kind: A word for its name.

    Raises:
        OSError: It cannot be made.
    """
    with locked_folder(kind) as (made, _):
        yield made


@contextlib.contextmanager
def locked_folder(kind: str = "") -> Iterator[tuple[Path, int]]:
    """Yield a folder as `folder` does, and the descriptor of its lock: a child that inherits it keeps the folder.

    Raises:
        OSError: It cannot be made.
    """
    sweep()
    made, lock = _made(kind)
    try:
        yield made, lock
    finally:
        _remove(made)
        os.close(lock)


def shared_memory(made: Path) -> str:
    """Return how names in shared memory begin that are to go with a folder."""
    return f"tlopt_{made.name[-16:]}_"


@functools.cache
def sweep() -> None:
    """Remove, once in a process, the folders of this user whose processes have gone."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for path in [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                _sweep(path)


def locked(handle: int, path: Path) -> bool:
    """Lock an open file or folder; return False if another process has it, or if its name has gone to another one.

    Raises:
        OSError: There are no locks here.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def remove_tree(folder: Path) -> None:
    """Remove a folder of ours; those in it may be protected."""
    with contextlib.suppress(OSError):
        folder.chmod(stat.S_IRWXU)
    for root, folders, _ in os.walk(folder):
        for name in folders:
            if not (inner := Path(root, name)).is_symlink():
                with contextlib.suppress(OSError):
                    inner.chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)


def _made(kind: str) -> tuple[Path, int]:
    while True:
        made = Path(tempfile.gettempdir(), f"tlopt-{kind}{'-' if kind else ''}{secrets.token_hex(8)}")
        try:
            made.mkdir(mode=stat.S_IRWXU)
            lock = _opened(made)
        except (FileExistsError, FileNotFoundError):  # the latter if it was swept away before it was locked
            continue
        try:
            if locked(lock, made):
                return made, lock
        except OSError:
            return made, lock  # no locks here, so nobody sweeps
        os.close(lock)


def _sweep(path: Path) -> None:
    handle = _opened(path)
    try:
        if os.fstat(handle).st_uid == os.geteuid() and locked(handle, path):
            _remove(path)
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _remove(path: Path) -> None:
    for left in SHARED_MEMORY.glob(f"{shared_memory(path)}*"):
        with contextlib.suppress(OSError):
            left.unlink()
    remove_tree(path)
