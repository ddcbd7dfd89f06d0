"""What a study is kept in: an Optuna journal in a file, or a database."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from tlopt.errors import MissingLibraryError, StudyError
from tlopt.reading import files, schema

_URL = re.compile(r"[a-z][a-z0-9+]*://")
_WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0)  # for another worker to make the tables of a database
_OPERATION = b'{"op_code":'  # how each line of a journal begins


def is_url(where: str) -> bool:
    """Return whether a study lies in a database."""
    return _URL.match(where) is not None


def parted(where: str) -> tuple[str, str]:
    """Return the file or the address of a study, and its name: empty if none is given.

    A "#" begins no name if it is one of a folder, or of a password: more of the place comes after it.
    """
    place, sign, name = where.rpartition("#")
    return (place, name) if sign and not {"/", "@"} & set(name) else (where, "")


def is_there(where: str) -> bool:
    """Return whether there is a file or a database to look for a study in; one on a server may always be there."""
    file = file_of(where)
    return file is None or file.exists()


def file_of(where: str) -> Path | None:
    """Return the file that a study lies in, None for one on a server, and where only opening it tells."""
    if not is_url(where):
        return Path(where)
    try:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:  # it comes with Optuna, whose absence is told when the study is opened
        return None
    try:
        found = make_url(where)
    except ArgumentError:
        return None
    in_a_file = found.get_backend_name() == "sqlite" and bool(found.database)
    return Path(str(found.database)) if in_a_file else None


def shown_place(where: str) -> str:
    """Return a file or an address as it may be shown: without who logs in, and without settings of the driver.

    A password may hold any sign that has a meaning in an address. Where one may be cut, only the kind is shown.
    """
    kind, is_address, rest = where.partition("://")
    if not is_address:
        return where
    place, named, name = rest.partition("#")
    place, _, settings = place.partition("?")
    if "@" in settings or "@" in name:
        return f"{kind}://…"
    if not place.startswith("/") and "@" in place:  # without a host there is nobody to log in
        place = f"…@{place.rpartition('@')[2]}"
    return f"{kind}://{place}{named}{name}"


def journal(optuna: Any, file: Path, *, look: bool) -> Any:
    """Open a journal, and make it if it is not there.

    Args:
        optuna: The library.
        file: The journal.
        look: Change nothing: the journal must be there, and is not mended.

    Raises:
        StudyError: It is damaged, it is no journal, or it cannot be made.
    """
    if look or file.exists() or file.is_symlink():
        files.expect_regular(file)
    elif not file.parent.is_dir():
        raise StudyError(f"The study {file} cannot be made: there is no folder {file.parent}.")
    file = file.absolute()  # the lock is a link to it
    lock = optuna.storages.journal.JournalFileSymlinkLock(str(file))
    if not look:
        _mend(file, lock)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file), lock_obj=lock))


def database(optuna: Any, url: str, *, look: bool) -> Any:
    """Open a database.

    Args:
        optuna: The library.
        url: Its address.
        look: Change nothing: no tables are made, and no file.

    Raises:
        MissingLibraryError: Its driver is not installed.
        StudyError: It is a file that is not there, and none is to be made.
    """
    try:
        if look and not is_there(url):
            raise StudyError(f"There is no study at {shown_place(url)}.")
        return _opened(optuna, url, look=look)
    except ImportError as error:
        raise MissingLibraryError(
            f"The driver for {shown_place(url)} is not installed: {str(error).rstrip('.')}.",
            hint="python -m pip install its package.",
        ) from error


def _opened(optuna: Any, url: str, *, look: bool) -> Any:
    """Open a database, again if it fails: of two workers that make its tables at the same moment, one cannot."""
    from sqlalchemy.exc import DBAPIError

    for wait_s in _WAITS_S:
        try:
            return optuna.storages.RDBStorage(url, skip_table_creation=look)
        except DBAPIError as error:
            if error.statement is None:  # nothing was asked: nobody answers there, or not to us
                raise
        time.sleep(wait_s)
    return optuna.storages.RDBStorage(url, skip_table_creation=look)


def _mend(file: Path, lock: Any) -> None:
    """Cut off the end of a journal that a full disk, or a machine that went off, has left without the end of its line.

    What is written next would become part of that line, and the journal could not be read from then on.

    Raises:
        StudyError: The file is no journal: Optuna would write into whatever it is.
    """
    if not file.exists():
        return
    lock.acquire()
    try:
        content = files.read_bytes(file, limit=files.TABLE_LIMIT)
        end = content.rfind(b"\n") + 1
        last, rest = content[content.rfind(b"\n", 0, max(0, end - 1)) + 1 : end], content[end:]
        if not (_begins(last) and _begins(rest) and (_is_json(last) or not last)):
            raise StudyError(
                f"The study {file} is damaged: its last line is no record of Optuna.", hint="Name another --study."
            )
        if rest:
            os.truncate(file, end)
    finally:
        lock.release()


def _begins(line: bytes) -> bool:
    """Return whether a line, or a part of one, begins as the records of a journal do."""
    return line[: len(_OPERATION)] == _OPERATION[: len(line)]


def _is_json(line: bytes) -> bool:
    try:
        schema.parse_json(line)
    except schema.SchemaError:
        return False
    return True
