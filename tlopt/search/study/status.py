"""How far a search is: what was tried, what is running, and the best so far."""

from __future__ import annotations

from pathlib import Path

from tlopt.errors import StudyError
from tlopt.reports import Report, Scalar
from tlopt.search.outcome import Study, read_report
from tlopt.search.study import folder
from tlopt.search.study.backing import shown_place
from tlopt.search.study.folder import Note
from tlopt.search.study.leases import is_gone
from tlopt.search.study.storage import Entry, Storage


def status_of(out: Path, study: str = "") -> Study:
    """Return how far the search in a folder is.

    Args:
        out: The folder.
        study: Its study, if that is not in the folder: no other place that a file names is opened.

    Raises:
        StudyError: There is no search, or its study cannot be read.
    """
    note = folder.read_note(out)
    if note is None:
        raise StudyError(
            f"There is no search at {out}.", hint="tlopt optimize IMAGES -o OUT --latency-ms 5 begins one."
        )
    where = study or _own(out, note)
    entries = Storage(where, None).entries() if where else []
    rows = tuple(_running(entry) for entry in entries if entry.state == "held")
    so_far = (read_report(out),) if (out / folder.REPORT).exists() else ()
    details = {"report": so_far[0].to_dict()} if so_far else {}
    steps = f", steps done: {sum(entry.state == 'done' for entry in entries)}" if where else ""
    title = f"{out}: {'finished' if note.finished else 'not finished'}{steps}"
    notes = () if rows or note.finished else (_idle(where, note),)
    return Study(path=out, report=Report(title=title, rows=rows, notes=notes, details=details, more=so_far))


def _own(out: Path, note: Note) -> str:
    """Return the study in a folder, empty if it has none."""
    file = out / folder.JOURNAL
    is_file = file.is_file() and not file.is_symlink()
    return str(file) if is_file and note.study == folder.JOURNAL else ""


def _idle(where: str, note: Note) -> str:
    if where or note.study == folder.JOURNAL:
        return "Nothing is running. The same command goes on with it."
    return f"Its study is at {shown_place(note.study)}. Name it with --study to see what is running."


def _running(entry: Entry) -> dict[str, Scalar]:
    who = entry.owner
    return {
        "running": str(who.get("label", entry.key)),
        "host": str(who.get("host", "")),
        "since": str(who.get("at", "")),
        "alive": not is_gone(who),
    }
