"""The folder of a search: what it says of itself, who may write into it, and what it holds in the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlopt.errors import OutputExistsError, StudyError, wrong_with
from tlopt.images import intrusion
from tlopt.publishing import check_place, claim, draft, write_whole
from tlopt.publishing.claims import lock_file, wait_claimed
from tlopt.publishing.marks import SEARCH
from tlopt.publishing.places import located
from tlopt.reading import files, schema

log = logging.getLogger(__name__)

JOURNAL = "study.journal"
REPORT, PAGE, BEST = "report.json", "report.html", "best"
_PATIENCE_S, _PAUSE_S = 30.0, 0.2  # until another worker has made the folder, and between two looks


@dataclass(frozen=True, kw_only=True)
class Note:
    """What the folder of a search says of it.

    Args:
        tlopt: The version that began it.
        identity: What must be the same for it to go on.
        quick: Digest of settings, and of names, sizes and dates of what is read: the same means that nothing changed.
        study: Where it is written down, without a password.
        minutes: How long it may take.
        finished: Whether the answer stands.
        token: Tells the folder from any other one, by whatever path it is reached.
        keep: Which artifacts stay beside the answer.
    """

    tlopt: str
    identity: Mapping[str, str]
    quick: str
    study: str
    minutes: float
    finished: bool = False
    token: str = ""
    keep: str = "all"

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def read_note(out: Path) -> Note | None:
    """Return what a folder says of its search, None if it is the folder of none.

    Raises:
        StudyError: It is damaged.
    """
    try:
        return schema.convert(schema.parse_json(files.read_text(out / SEARCH)), Note)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        wrong, hint = wrong_with(error, "Start anew with --force, or choose another --out.")
        raise StudyError(f"{out / SEARCH} {wrong}.", hint=hint) from error


def tell_kept(out: Path, keep: str) -> None:
    """Warn if more of a finished search is to be kept than stayed when it ended."""
    note = read_note(out)
    if note is not None and note.finished and "all" != note.keep != keep != "best":
        log.warning(
            "The search in %s is finished, and was to keep %s: --keep %s has no effect any more. Add --force.",
            out, note.keep, keep,
        )  # fmt: skip


def write_note(out: Path, note: Note) -> None:
    """Write down what a folder says of its search."""
    write_whole(out / SEARCH, note.text())


@contextlib.contextmanager
def telling(place: Path, *, patience_s: float = 0.0) -> Iterator[None]:
    """Let one worker at a time write what was found so far, or the answer.

    Args:
        place: The folder of the search.
        patience_s: Seconds to wait for another worker.

    Raises:
        OutputExistsError: Another worker writes there.
    """
    until = time.monotonic() + patience_s
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(claim(lock_file(place / SEARCH), place / REPORT))
                break
            except OutputExistsError:
                if time.monotonic() >= until:
                    raise
                time.sleep(_PAUSE_S)
        yield


def withdraw(place: Path, note: Note) -> None:
    """Remove the folder of a search that could not begin: it holds what this search says of it, and no more."""
    with contextlib.suppress(OSError, StudyError):
        if os.listdir(place) == [SEARCH] and read_note(place) == note:
            (place / SEARCH).unlink()
            place.rmdir()  # not with whatever has come into it meanwhile


def refuse(out: Path, found: Note, identity: Mapping[str, str]) -> None:
    """Refuse the folder of another search.

    Raises:
        OutputExistsError: It is.
    """
    if differ := [name for name, value in identity.items() if found.identity.get(name) != value]:
        raise OutputExistsError(
            f"{out} holds another search. What differs: {', '.join(differ)}.",
            hint="Give the same settings to go on with it, choose another --out, or add --force to start anew.",
        )


@contextlib.contextmanager
def opened(
    out: Path, note: Note, *, force: bool, shared: bool, reads: Iterable[Path],
    begin: Callable[[Path], object] = lambda _: None,
) -> Iterator[Path]:  # fmt: skip
    """Make the folder of a search, or go on with it; yield its absolute path.

    Without a study that others know, nobody else writes into the folder meanwhile.

    Args:
        out: The folder.
        note: What it says of its search.
        force: Replace another search there, or start this one anew.
        shared: Others may work on the same study.
        reads: What the search reads.
        begin: Begins the search in a new folder, given as it is made. If it fails, what it would replace stands.

    Raises:
        OutputExistsError: Something else is there, or another search is at work there.
        OutputError: It cannot be made.
    """
    place = located(out)
    wait_claimed(lock_file(place), out, patience_s=_PATIENCE_S if shared else 0.0)
    found = None if force else read_note(place)
    if found is None:
        found = _made(out, note, force=force, shared=shared, reads=tuple(reads), begin=begin)
    refuse(out, found, note.identity)
    if (found.study == JOURNAL) != (note.study == JOURNAL):
        where = "has its study in itself" if found.study == JOURNAL else f"has its study in {found.study}"
        raise OutputExistsError(f"The search in {out} {where}.", hint="Name the same --study as when it began.")
    if shared:
        yield place
        return
    with claim(lock_file(place), out):
        yield place


def _made(
    out: Path, note: Note, *, force: bool, shared: bool, reads: tuple[Path, ...], begin: Callable[[Path], object]
) -> Note:
    """Make the folder with its note; of several workers that begin at once, one does."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with draft(out, force=force, reads=reads, makes="search") as made:
                write_whole(made / SEARCH, note.text())
                begin(made.folder)
            return note
        except OutputExistsError:
            if not shared or time.monotonic() > until:
                raise
            if (found := read_note(located(out))) is not None and not force:
                return found
            time.sleep(_PAUSE_S)


def check(out: Path, *, force: bool, shared: bool, reads: Sequence[Path]) -> None:
    """Refuse a folder that cannot be that of a search, before anything is read.

    Raises:
        OutputExistsError: Something else is there, or another search is at work there.
        OutputError: It cannot be made.
    """
    place = located(out)
    for again in (True, False):  # another worker may begin to make it between two looks
        wait_claimed(lock_file(place), out, patience_s=_PATIENCE_S if shared else 0.0)
        if not force and read_note(place) is not None:
            return
        try:
            check_place(out, force=force, reads=reads, makes="search")
            intrusion.refuse(out, reads)
        except OutputExistsError:
            if not (shared and again):
                raise
        else:
            return
