"""How a folder shows that tlopt made it, and which files in it tlopt wrote: nothing else is ever replaced.

A new kind of folder is one line in `MARKS`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tlopt.reading import files
from tlopt.reading.schema import parse_json

Group = Literal["artifact", "report", "set", "deployment", "search"]

DEPLOYMENT_FILE = "deploy.json"
DEPLOYMENT = "a deployment of tlopt"  # what that file says of its folder

_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # what file browsers leave, to be lost without regret


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A kind of folder that tlopt makes.

    Args:
        what: Its name.
        group: What it is in the end; a command replaces folders of its own group only, and any report.
        file: The file that shows it.
        owned: Reads that file and returns the paths of all that tlopt wrote, relative to the folder and without
            the file itself. It raises ValueError, KeyError or TypeError for a file of somebody else.
        empty: Fits the paths of folders that tlopt may leave empty there. Those of other empty folders are the
            user's, unless tlopt wrote a file into them that is gone.
    """

    what: str
    group: Group
    file: str
    owned: Callable[[Path], Iterable[str]]
    empty: re.Pattern[str] = re.compile(r"(?!)")  # none


def _json(file: Path) -> dict[str, Any]:
    found = parse_json(files.read_text(file), finite=False)
    if not isinstance(found, dict):
        raise TypeError
    return found


def _artifact(card: Path) -> Iterable[str]:
    try:
        content = _json(card)
    except ValueError:
        # A damaged card must not stand in the way of the artifact that replaces it.
        return [name for name in _files(card.parent) if name in _PAYLOADS or name.startswith("tensorboard/events")]
    if "schema" not in content or "lineage" not in content:
        raise ValueError
    return map(str, dict(content["files"]))


# All that the stages write. Another program may have an artifact.json of its own, beside files of the same kinds.
_PAYLOADS = frozenset(
    {
        "model.safetensors", "model.onnx", "model.onnx.data", "model.engine", "layers.json", "metrics.jsonl",
        "confusion_matrix.svg", "learning_curves.svg",
    }
)  # fmt: skip


def _report(file: Path) -> Iterable[str]:
    if not {"title", "rows", "conditions"} <= _json(file).keys():
        raise ValueError
    return ["report.html"]


def _set(manifest: Path) -> Iterable[str]:
    with io.TextIOWrapper(files.open_regular(manifest), encoding="utf-8", errors="surrogateescape", newline="") as text:
        rows = csv.reader(text)
        if next(rows, None) != ["path", "label", "split", "origin"]:
            raise ValueError
        return ["log.csv", *(row[0] for row in rows if row)]


def _deployment(file: Path) -> Iterable[str]:
    content = _json(file)
    if content.get("what") != DEPLOYMENT:
        raise ValueError
    return map(str, dict(content["files"]))


SEARCH = "optimize.json"


def _search(file: Path) -> Iterable[str]:
    try:
        whole = {"tlopt", "identity", "study"} <= _json(file).keys()
    except ValueError:
        whole = (file.parent / "study.journal").is_file()  # damaged: then its neighbour tells
    if not whole:
        raise ValueError
    yield from ("report.json", "report.html", "study.journal")
    yield from (name for name in _files(file.parent) if _SEARCH_FILE.fullmatch(_finished(name)))


def _search_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what fits the paths of files that a search writes beside its reports, and of folders that may be empty.

    It keeps artifacts, what killed runs left of them, the timings of networks, and tables of divided images.
    """
    address, inside = "[0-9a-f]{16}", "work/(engines|graphs|networks)/"
    places = {
        "": "best", "pareto/": "[A-Za-z0-9_.-]*[0-9a-f]{8}", "work/": f"[a-z]+-{address}", inside: address,
    }  # fmt: skip
    artifacts = _any(f"{above}{name}" for above, name in places.items())
    beside = _any(rf"{above}\.{name}" for above, name in places.items())
    left = rf"{beside}\.(draft|old)-[0-9a-f]{{8}}"
    payload = _any(map(re.escape, sorted(_PAYLOADS | {"artifact.json"})))
    files = (
        f"{artifacts}/{payload}", f"{left}/(.*/)?{payload}", rf"{beside}\.checkpoint/checkpoint\.safetensors",
        rf"{beside}\.lock", r"\.optimize\.json\.lock", rf"work/timings/{address}\.json", rf"work/images-{address}\.csv",
        r"study\.journal\.lock([0-9a-f-]{36}\.rename)?",  # Optuna gives a lock another name before it removes it
    )  # fmt: skip
    # Made before what goes into them, or emptied before they go.
    folders = (
        "pareto|work", "work/(engines|graphs|networks|timings)", artifacts, f"{left}(/.*)?", rf"{beside}\.checkpoint",
    )  # fmt: skip
    return re.compile(_any(files)), re.compile(_any(folders))


def _any(patterns: Iterable[str]) -> str:
    return f"({'|'.join(patterns)})"


_SEARCH_FILE, _SEARCH_EMPTY = _search_patterns()


MARKS = (
    # Before the report that it holds, too.
    Mark(what="a search", group="search", file=SEARCH, owned=_search, empty=_SEARCH_EMPTY),
    Mark(what="an artifact", group="artifact", file="artifact.json", owned=_artifact),
    Mark(what="a report", group="report", file="report.json", owned=_report),
    Mark(what="a comparison", group="report", file="compare.json", owned=_report),
    Mark(what="a ranking", group="report", file="rank.json", owned=_report),
    Mark(what="a set of images", group="set", file="manifest.csv", owned=_set),
    Mark(what="a deployment", group="deployment", file=DEPLOYMENT_FILE, owned=_deployment),
)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a folder holds.

    Args:
        mark: What tlopt made of it; None if it did not make it.
        owned: The files that tlopt wrote into it.
        foreign: What it did not write, sorted: files, and empty folders with a slash at the end.
    """

    mark: Mark | None
    owned: frozenset[str]
    foreign: tuple[str, ...]

    def made(self, folder: str) -> bool:
        """Return whether tlopt made a folder in it, told by its path."""
        if self.mark is None:
            return False
        return any(name.startswith(f"{folder}/") for name in self.owned) or bool(self.mark.empty.fullmatch(folder))


def contents(folder: Path) -> Contents:
    """Tell what of a folder is tlopt's."""
    present = set(_files(folder))
    empty = list(_empty_folders(folder))
    for mark in MARKS:
        if mark.file not in present:
            continue
        try:
            named = map(os.path.normpath, mark.owned(folder / mark.file))
            finished = {mark.file, *(name for name in named if not _is_outside(name))}
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            continue
        if mark.group == "set" and "log.csv" not in present:
            continue  # a table that a person wrote beside the images
        owned = frozenset(finished | {name for name in present if _finished(name) in finished})
        ours = Contents(mark=mark, owned=owned, foreign=())
        theirs = [f"{name}/" for name in empty if not ours.made(name)]
        return replace(ours, foreign=tuple(sorted([*(present - owned), *theirs])))
    return Contents(mark=None, owned=frozenset(), foreign=tuple(sorted([*present, *(f"{name}/" for name in empty)])))


_PART = re.compile(r"\.(.+)\.part-[0-9a-f]{8}")


def _finished(name: str) -> str:
    """Return the path of the file that would have become of one that a killed process was writing; else the same."""
    folder, file = os.path.split(name)
    part = _PART.fullmatch(file)
    return os.path.join(folder, part[1]) if part else name


def _is_outside(name: str) -> bool:
    """Return whether a path relative to a folder leads out of it, as one in a damaged card may."""
    return name.split(os.sep, 1)[0] in ("", os.pardir)


def made(folder: Path) -> Mark | None:
    """Return what tlopt made of a folder, told by the file that shows it alone; None if it did not make it."""
    for mark in MARKS:
        try:
            next(iter(mark.owned(folder / mark.file)), None)
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            continue
        if mark.group != "set" or (folder / "log.csv").is_file():
            return mark
    return None


def _files(folder: Path) -> Iterable[str]:
    """Yield the path of every file below a folder, relative to it.

    A link to a folder counts as a file. So does a folder that cannot be looked into: nobody knows what is in it.
    """
    closed: list[str] = []
    for root, folders, here in os.walk(folder, onerror=lambda error: closed.append(str(error.filename))):
        below = os.path.relpath(root, folder)
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in [*here, *links]:
            if name not in _LITTER:
                yield os.path.normpath(os.path.join(below, name))
    yield from (os.path.relpath(path, folder) for path in closed)


def _empty_folders(folder: Path) -> Iterable[str]:
    """Yield the path of every folder below a folder that holds nothing, or what file browsers leave, relative to it."""
    for root, folders, here in os.walk(folder):
        if not folders and _LITTER.issuperset(here) and Path(root) != folder:
            yield os.path.relpath(root, folder)
