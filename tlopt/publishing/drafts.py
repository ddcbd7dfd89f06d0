"""Folders: written as a draft beside their place, which takes the place in one step."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tlopt.errors import OutputError, OutputExistsError, TloptError
from tlopt.process import temporary
from tlopt.process.temporary import remove_tree
from tlopt.publishing.claims import OF_THE_DISK, claim, follows, lock_file, unwritable
from tlopt.publishing.marks import Group, contents
from tlopt.publishing.places import CHECKPOINT, check_place, checkpoints, examined, is_occupied, located
from tlopt.reading.names import shown_name


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A folder that is being written.

    ``draft / "name"`` is the path of a file in it.

    Args:
        folder: Where to write now.
        out: Where it will be.
    """

    folder: Path
    out: Path

    @property
    def checkpoints(self) -> Path:
        """Folder for what is needed to go on after a kill; it outlives the draft, and goes when `out` stands."""
        return checkpoints(self.out)

    def __truediv__(self, name: str | Path) -> Path:
        return self.folder / name

    def __fspath__(self) -> str:
        return str(self.folder)


@contextlib.contextmanager
def draft(
    out: str | Path, *, force: bool = False, reads: Iterable[str | Path] = (), makes: Group = "artifact",
    shared: bool = False,
) -> Iterator[Draft]:  # fmt: skip
    """Yield a draft that becomes `out` only if the block succeeds.

    The draft lies beside `out`, so that the final rename is atomic. Whatever interrupts the block leaves `out` as
    it was; what a killed process left is swept away by the next one. One process at a time makes an output.

    Args:
        out: The folder to make.
        force: Replace what is there, if tlopt made all of it.
        reads: What the command reads, which is never replaced.
        makes: What becomes of it: it replaces only a folder of the same kind, or a report.
        shared: Whether several processes of torchrun do the work together.

    Raises:
        OutputExistsError: Something is at `out` that may not be replaced, or another run is making it.
        OutputError: It cannot be made there, or not by this process.
    """
    reads = tuple(reads)
    place = check_place(out, force=force, reads=reads, makes=makes)
    if follows():
        if not shared:
            raise OutputError(
                f"{out} is not made: RANK={os.environ['RANK']} of WORLD_SIZE={os.environ['WORLD_SIZE']} is set, so "
                "another process leads this one.",
                hint="Only finetune and qat share their work. Run others without torchrun: unset RANK WORLD_SIZE",
            )
        with temporary.folder("follower") as folder:
            yield Draft(folder=folder, out=place)
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    with claim(lock_file(place), out) as alone:
        if alone:
            _sweep(place)
        # Again, because what a killed run had set aside may have come back, or another run may just have ended.
        examined(out, force=force, reads=reads, makes=makes)
        made = Draft(folder=_scratch(place, out), out=place)
        try:
            yield made
            _publish(made, out, lambda: examined(out, force=force, reads=reads, makes=makes))
            _forget(made.checkpoints)
        except TloptError:
            raise
        except OSError as error:
            inside = str(error.filename).startswith(str(made.folder))
            if inside or error.errno in OF_THE_DISK:
                raise unwritable(out, error) from error
            raise
        finally:
            remove_tree(made.folder)


def _scratch(place: Path, out: str | Path, kind: str = "draft") -> Path:
    """Make a folder beside a place; its name is its own, its mode what the umask and the folder above say."""
    while True:
        folder = place.with_name(f".{place.name}.{kind}-{secrets.token_hex(4)}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise unwritable(out, error) from error
        return folder


def _publish(made: Draft, out: str | Path, check_again: Callable[[], Path]) -> None:
    sync_tree(made.folder)
    with contextlib.suppress(OSError):  # what nobody else may look into stays so, and with whom it was
        old = made.out.lstat()
        made.folder.chmod(stat.S_IMODE(old.st_mode))
        os.chown(made.folder, old.st_uid, old.st_gid)
    if is_occupied(made.out):
        check_again()
        if _exchange(made.folder, made.out):
            try:
                _refuse_newcomers(made.folder, out)
            except BaseException:  # an interruption, too
                _exchange(made.folder, made.out)
                raise
        else:
            # Here a folder cannot be replaced in one step: the old one is set aside first, then dropped.
            aside = _scratch(made.out, out, "old")
            made.out.rename(aside)
            try:
                _refuse_newcomers(aside, out)
                made.folder.rename(made.out)
            except BaseException:  # an interruption, too: the old one must not be missing
                aside.rename(made.out)
                raise
            remove_tree(aside)
    else:
        try:
            made.folder.rename(made.out)  # fails if anything but an empty folder has appeared
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise OutputExistsError(
                f"{out} has appeared while it was being made, and was left as it is.", hint="Choose another --out."
            ) from error
    sync(made.out.parent)


def _refuse_newcomers(old: Path, out: str | Path) -> None:
    """Refuse to drop an old output into which somebody put a file after it had been looked through.

    Raises:
        OutputExistsError: Somebody did.
    """
    if new := contents(old).foreign:
        raise OutputExistsError(
            f"{out} was left as it is: {shown_name(new[0])} was put there while it was being made anew.",
            hint=f"Move it out of {out}, or choose another --out.",
        )


def sync(path: Path) -> None:
    """Have a file or the list of a folder's files on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some file systems cannot do that for folders
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Have a folder and all in it on the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            file = Path(root, name)
            if file.is_file() and not file.is_symlink():
                sync(file)
        sync(Path(root))


def tidy(out: str | Path) -> None:
    """Remove what a killed run left beside an output that stands, unless another run is at work on it."""
    place = located(out)
    if not lock_file(place).exists():
        return
    with contextlib.suppress(OutputError, OutputExistsError), claim(lock_file(place), out) as alone:
        if alone:
            _sweep(place)
            _forget(checkpoints(place))


def _forget(folder: Path) -> None:
    """Remove the checkpoint of a run, and its folder if nothing else is in it: it may be the user's."""
    name = re.compile(rf"{re.escape(CHECKPOINT)}|\.{re.escape(CHECKPOINT)}\.part-[0-9a-f]{{8}}")
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            ours = [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]
        for file in ours:
            file.unlink()
        folder.rmdir()


_RENAME_EXCHANGE = 2  # <linux/fs.h>
_AT_FDCWD = -100


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; return False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sweep(place: Path) -> None:
    """Remove the drafts that killed runs left of this output; bring back what one had set aside."""
    name = re.compile(rf"\.{re.escape(place.name)}\.(draft|old)-[0-9a-f]{{8}}")
    with os.scandir(place.parent) as entries:
        left = [(entry.path, match[1]) for entry in entries if (match := name.fullmatch(entry.name))]
    for path, kind in left:
        if kind == "old" and not is_occupied(place) and any(Path(path).iterdir()):
            Path(path).rename(place)
        else:
            remove_tree(Path(path))
