"""How far a search is: what was tried, what is running, and the best so far."""

from __future__ import annotations

from pathlib import Path

from tlopt.errors import StudyError
from tlopt.reports import Report, Scalar
from tlopt.search.outcome import Study, read_report
from tlopt.search.study import folder
from tlopt.search.study.leases import is_gone
from tlopt.search.study.storage import Entry, Storage, is_url


def status_of(out: Path, study: str = "") -> Study:
    """Return how far the search in a folder is.

    Args:
        out: The folder.
        study: Its study, where a password is needed to open it; empty for the one that the folder names.

    Raises:
        StudyError: There is no search, or its study cannot be read.
    """
    note = folder.read_note(out)
    if note is None:
        raise StudyError(
            f"There is no search at {out}.", hint="tlopt optimize IMAGES -o OUT --latency-ms 5 begins one."
        )
    where = study or (str(out / folder.JOURNAL) if note.study == folder.JOURNAL else note.study)
    place = where.partition("#")[0]
    entries = [] if not is_url(place) and not Path(place).exists() else Storage(where, None).entries()
    rows = tuple(_running(entry) for entry in entries if entry.state == "held")
    so_far = (read_report(out),) if (out / folder.REPORT).exists() else ()
    done = sum(entry.state == "done" for entry in entries)
    title = f"{out}: {'finished' if note.finished else 'not finished'}, {done} steps done"
    notes = () if rows or note.finished else ("Nothing is running. The same command goes on with it.",)
    return Study(path=out, report=Report(title=title, rows=rows, notes=notes, more=so_far))


def _running(entry: Entry) -> dict[str, Scalar]:
    who = entry.owner
    return {
        "running": str(who.get("label", entry.key)),
        "host": str(who.get("host", "")),
        "since": str(who.get("at", "")),
        "alive": not is_gone(who),
    }
