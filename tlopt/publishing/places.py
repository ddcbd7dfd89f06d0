"""Whether an output may be written where it was asked for: looked at before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tlopt.errors import OutputError, OutputExistsError
from tlopt.publishing.claims import lock_file, refuse_claimed
from tlopt.publishing.marks import Group, contents
from tlopt.reading.names import shown_name

CHECKPOINT = "checkpoint.safetensors"  # the one file in a run's folder of checkpoints
_ELSEWHERE = "Choose another --out."


def checkpoints(place: Path) -> Path:
    """Return the folder where a run that makes `place` keeps what it needs to go on."""
    return place.with_name(f".{place.name}.checkpoint")


def located(out: str | Path) -> Path:
    """Return the absolute path of an output; a link at its end is not followed."""
    out = Path(out)
    if out.name in ("", ".."):
        return Path(os.path.realpath(out))
    return Path(os.path.realpath(out.parent)) / out.name


def check_place(
    out: str | Path, *, force: bool = False, reads: Iterable[str | Path] = (), makes: Group = "artifact"
) -> Path:
    """Return where a folder will be made, absolute; refuse a place where something would be lost.

    `draft` checks this, too. A command that works before it opens a draft calls it first.

    Args:
        out: The folder to make.
        force: Replace what is there, if tlopt made all of it.
        reads: What the command reads: files and folders. It is gone through only if something is at `out`.
        makes: What the command makes: it replaces only what it could have made, or a report.

    Raises:
        OutputExistsError: Something is there that may not be replaced, or another run is making it.
        OutputError: It cannot be made there.
    """
    place = examined(out, force=force, reads=reads, makes=makes)
    refuse_claimed(lock_file(place), out)
    return place


def examined(out: str | Path, *, force: bool, reads: Iterable[str | Path], makes: Group) -> Path:
    """Do what `check_place` does, but let the one ask who is making `out` himself."""
    place = located(out)
    refuse_tilde(out)
    _refuse_homes(place, out)
    _check_parent(place, out)
    _check_checkpoints(checkpoints(place), out)
    if place.is_symlink():
        raise OutputExistsError(f"{out} is a symbolic link.", hint="Name the folder itself, or another one.")
    if not place.exists():
        return place
    if not place.is_dir():
        raise OutputExistsError(f"{out} exists already, and is a file.", hint=_ELSEWHERE)
    if os.path.ismount(place):
        raise OutputExistsError(
            f"{out} is the root of a file system, which cannot be replaced.", hint=f"Name a folder in it: {out}/tuned."
        )
    if any(place.iterdir()):
        _check_replaced(place, out, force, reads, makes)
    return place


def is_occupied(place: Path) -> bool:
    """Return whether something is at a place that an empty folder would not be."""
    return place.is_symlink() or (place.exists() and not (place.is_dir() and not any(place.iterdir())))


def _check_replaced(place: Path, out: str | Path, force: bool, reads: Iterable[str | Path], makes: Group) -> None:
    others: set[Path] = set()  # folders that are not the place
    for read in reads:
        found = Path(os.path.realpath(read))
        if (same := _among(place, (found, *found.parents), others)) is not None:
            what = "is" if found == same else "holds"
            raise OutputExistsError(f"{out} {what} what this command reads: {read} would be lost.", hint=_ELSEWHERE)
    if not force:
        raise OutputExistsError(
            f"{out} exists already.", hint="Choose another --out, or add --force to replace what tlopt made there."
        )
    held = contents(place)
    if held.mark is None:
        raise OutputExistsError(
            f"{out} was not made by tlopt: {_named(held.foreign)} would be lost.",
            hint=f"--force replaces only what tlopt made. {_ELSEWHERE}",
        )
    if held.foreign:
        raise OutputExistsError(
            f"{out} holds what tlopt did not put there: {_named(held.foreign)} would be lost.",
            hint=f"Move it out of {out}, or choose another --out.",
        )
    if held.mark.group not in (makes, "report"):
        raise OutputExistsError(
            f"{out} is {held.mark.what}: --force does not replace it with {_MADE[makes]}.",
            hint=f"Move it, or delete it yourself. {_ELSEWHERE}",
        )


_MADE: dict[Group, str] = {
    "artifact": "an artifact",
    "report": "a report",
    "set": "a set of images",
    "deployment": "a deployment",
    "search": "a search",
}


def _among(place: Path, folders: Iterable[Path], others: set[Path]) -> Path | None:
    """Return the one of some folders that a place is, by whatever path: a mounted folder has several."""
    here = place.stat()
    for folder in folders:
        if folder in others:
            return None  # and so are those above it
        try:
            if folder == place or os.path.samestat(folder.stat(), here):
                return folder
        except OSError:
            continue
    others.update(folders)
    return None


def _named(files: tuple[str, ...]) -> str:
    """Return the first of some files, and how many more there are."""
    if not files:
        return "what it holds"
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{shown_name(files[0])}{more}"


def refuse_tilde(out: str | Path) -> None:
    """Refuse ~ for the home folder: only a shell knows it, and a folder of that name would be made.

    Raises:
        OutputError: The path begins with it.
    """
    if Path(out).parts[:1] == ("~",):
        raise OutputError(
            f"{out} begins with ~, which only a shell takes for your home folder.",
            hint=f"Write {Path(out).expanduser()}" if "HOME" in os.environ else "Write the whole path.",
        )


def _refuse_homes(place: Path, out: str | Path) -> None:
    """Refuse the folders that no output may replace: root, home, the current one, and those above them."""
    special = {Path(place.anchor): "the root folder"}
    for find, name in ((Path.home, "your home folder"), (Path.cwd, "the current folder")):
        try:
            special[Path(os.path.realpath(find()))] = name
        except (OSError, RuntimeError):  # there is none
            continue
    for folder, name in special.items():
        real = Path(os.path.realpath(place))
        if real == folder or real in folder.parents:
            raise OutputExistsError(
                f"{out} {'is' if real == folder else 'holds'} {name}, which cannot be replaced.",
                hint="Name a folder that is not there yet.",
            )


def _check_parent(place: Path, out: str | Path) -> None:
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir():
        raise OutputExistsError(f"{out} cannot be made: {above} is, or lies below, a file.", hint=_ELSEWHERE)
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{out} cannot be made: you may not write into {above}.", hint=_ELSEWHERE)
    limit = os.pathconf(above, "PC_NAME_MAX") - len("..draft-01234567")  # the longest name beside it
    if len(os.fsencode(place.name)) > limit:
        raise OutputError(f"{out} cannot be made: its name is longer than {limit} bytes.", hint=_ELSEWHERE)


def _check_checkpoints(folder: Path, out: str | Path) -> None:
    """Refuse what a run could not write its state to, before it has worked for that state."""
    for path, fits in ((folder, folder.is_dir), (folder / CHECKPOINT, (folder / CHECKPOINT).is_file)):
        if os.path.lexists(path) and not fits():
            raise OutputExistsError(
                f"{out} cannot be made: {path} is in the way, and is no checkpoint of tlopt.",
                hint=f"Move it. {_ELSEWHERE}",
            )
