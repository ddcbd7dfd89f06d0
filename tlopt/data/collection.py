"""A set of images written anew: where each image goes, and a log of what was done with it."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from tlopt.data.duplicates import Duplicates
from tlopt.data.inspection import Inspection
from tlopt.errors import ImagesError
from tlopt.images import SPLITS, ImageFolder, manifest, scan
from tlopt.progress import track
from tlopt.reports import Report, Scalar

MANIFEST = "manifest.csv"
LOG = "log.csv"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An image that was not taken over, and why."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A set of images that was written.

    Args:
        path: Its folder. Give it, or the manifest in it, wherever images are wanted.
        images: What lies in it, by its manifest.
        left_out: What was not taken over.
        notes: What a reader should know.
    """

    path: Path
    images: ImageFolder
    left_out: tuple[LeftOut, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def to_report(self, title: str = "") -> Report:
        """Return a table of how many images of each class each part and each origin has."""
        images = self.images
        parts = [i for i in range(len(SPLITS)) if np.any(images.fixed == i)]
        origins = np.array(images.origins or [""] * len(images))
        rows: list[dict[str, Scalar]] = []
        for label, name in [*enumerate(images.classes), (-1, "all")]:
            mine = (images.labels == label) | (label < 0)
            row: dict[str, Scalar] = {"class": name, "images": int(mine.sum())}
            row |= {SPLITS[part]: int((mine & (images.fixed == part)).sum()) for part in parts}
            row |= {f"from {o}": int((mine & (origins == o)).sum()) for o in sorted(set(origins)) if o}
            rows.append(row)
        left = [f"Images left out: {len(self.left_out)}; {self.path / LOG} says why."] if self.left_out else []
        return Report(
            title=title or f"{len(images)} images in {self.path}",
            rows=tuple(rows),
            conditions={"path": str(self.path), "digest": images.digest},
            notes=(*self.notes, *left),
            details={"left_out": [{"file": one.file, "reason": one.reason} for one in self.left_out]},
        )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What becomes of one image.

    Args:
        source: The file.
        shown: How the log names it.
        target: Path in the new set; empty if it is left out.
        label: Name of the class.
        part: Index into `SPLITS`, or -1.
        origin: Where it came from.
        action: "copied", "converted", "left out".
        reason: Why, in words.
    """

    source: Path
    shown: str
    target: str
    label: str
    part: int = -1
    origin: str = ""
    action: str = "copied"
    reason: str = ""


def write(entries: Sequence[Entry], folder: Path, *, link: bool = False, label: str = "Writing images") -> None:
    """Write images, manifest and log into a folder.

    Args:
        entries: What becomes of each image; those converted must lie there already.
        folder: An existing folder.
        link: Make hard links where the file system can; they share the source's content.
        label: Name of the progress bar.

    Raises:
        ImagesError: A class has a name that the manifest does not keep.
    """
    for name in sorted({entry.label for entry in entries if entry.label != entry.label.strip()}):
        raise ImagesError(
            f"The class {name!r} begins or ends with a space, which no manifest keeps.",
            hint="Rename the class without it.",
        )
    for entry in track(entries, label=label, total=len(entries)):
        if entry.action != "copied":
            continue
        target = folder / entry.target
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (link and _linked(entry.source, target)):
            shutil.copyfile(entry.source, target)
    kept = sorted((entry for entry in entries if entry.target), key=lambda entry: entry.target)
    manifest.write(
        folder / MANIFEST,
        [manifest.Row(path=e.target, label=e.label, part=e.part, origin=e.origin) for e in kept],
    )
    with (folder / LOG).open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        log = csv.writer(stream, lineterminator="\n")
        log.writerow(["file", "action", "target", "reason"])
        log.writerows([e.shown, e.action, e.target, e.reason] for e in entries)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        return False  # another file system, or one without hard links: copied instead
    return True


def opened(out: str | Path, entries: Sequence[Entry], notes: tuple[str, ...] = ()) -> Collection:
    """Return the collection that was written to `out`."""
    left = tuple(LeftOut(file=e.shown, reason=e.reason) for e in entries if not e.target)
    return Collection(path=Path(out), images=scan(Path(out) / MANIFEST), left_out=left, notes=notes)


class Places:
    """Hands out paths in a new set: ``part/class/name``, numbered where a name is taken."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def place(self, label: str, part: int, name: str) -> str:
        """Return the path of an image with this class, part and file name."""
        folder = re.sub(r"[/\\\0]", "_", label).lstrip(".") or "_"
        top = PurePosixPath(SPLITS[part]) if part >= 0 else PurePosixPath()
        wanted = PurePosixPath(name.lstrip(".") or "_")
        candidate, number = str(top / folder / wanted), 1
        # Upper and lower case are one on some file systems.
        while candidate.lower() in self._taken:
            number += 1
            candidate = str(top / folder / f"{wanted.stem}-{number}{wanted.suffix}")
        self._taken.add(candidate.lower())
        return candidate


def dropped(
    labels: Sequence[str], parts: Sequence[int], inspections: Sequence[Inspection], duplicates: Duplicates
) -> dict[int, str]:
    """Return image -> reason, of those that must go so that no picture is there twice.

    Copies with different labels all go, since one of the labels must be wrong. Else the copy of the
    test part stays, then that of validation; among equals the one with the most pixels, then with
    the larger file, then the first.
    """
    reasons = {i: f"unreadable: {one.problem}" for i, one in enumerate(inspections) if one.problem}
    for a, b in duplicates.pairs.tolist():
        if labels[a] != labels[b]:
            for mine, other in ((a, b), (b, a)):
                reasons.setdefault(
                    mine, f"the same picture as {inspections[other].file}, which is labelled {labels[other]}"
                )

    def rank(i: int) -> tuple[int, int, int, int]:
        one = inspections[i]
        return -parts[i], -one.width * one.height, -one.size_bytes, i

    ranking = sorted((i for i in range(len(inspections)) if i not in reasons), key=rank)
    for i, kept in duplicates.superfluous(ranking).items():
        same = inspections[i].content == inspections[kept].content
        reasons[i] = f"{'a copy' if same else 'a near duplicate'} of {inspections[kept].file}"
    return reasons
