"""What an audit can find, image by image and in the set as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np

from tlopt.data.duplicates import Duplicates
from tlopt.data.inspection import Inspection
from tlopt.images import SPLITS, SUFFIXES, ImageFolder
from tlopt.reading.names import alike as alike_names

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of finding: its heading, how bad it is, and what it means."""

    title: str
    severity: Severity
    meaning: str


KINDS: dict[str, Kind] = {
    "unreadable": Kind(
        title="Unreadable files",
        severity="error",
        meaning="Empty, truncated or no image. Training leaves them out and stops if they are more than a tenth.",
    ),
    "conflict": Kind(
        title="One picture in several classes",
        severity="error",
        meaning="At least one of the labels is wrong.",
    ),
    "leak": Kind(
        title="One picture in several parts",
        severity="error",
        meaning="What is trained on must not be tested on: the accuracy would be too high.",
    ),
    "duplicate": Kind(
        title="Copies", severity="warning", meaning="Files of exactly the same content count one picture several times."
    ),
    "near-duplicate": Kind(
        title="Near duplicates",
        severity="warning",
        meaning="The same image recompressed, resized or slightly edited, or images taken in one moment.",
    ),
    "wrong-label": Kind(
        title="Suspected wrong labels",
        severity="warning",
        meaning="A classifier that never saw the image is sure of another class. Look at each: it may be wrong itself.",
    ),
    "wrong-suffix": Kind(
        title="Content unlike the suffix", severity="warning", meaning="Other programs may refuse the file."
    ),
    "imbalance": Kind(
        title="Imbalance",
        severity="warning",
        meaning="Rare classes are learned worse; --loss class-balanced or logit-adjusted makes up for some of it.",
    ),
    "alike-classes": Kind(
        title="Classes of like names",
        severity="warning",
        meaning="They differ by case or spacing alone, and are most likely one class.",
    ),
    "rotated": Kind(
        title="EXIF rotation",
        severity="note",
        meaning="The camera stored the picture turned. tlopt turns it back; many programs do not.",
    ),
    "cmyk": Kind(title="CMYK", severity="note", meaning="Print colors. tlopt converts them; many programs do not."),
    "palette": Kind(title="Palette", severity="note", meaning="At most 256 colors. tlopt converts them to RGB."),
    "alpha": Kind(
        title="Transparency",
        severity="note",
        meaning="tlopt puts the picture over white; other programs may show what hides behind.",
    ),
    "deep-grey": Kind(
        title="Grey of more than 8 bits",
        severity="note",
        meaning="tlopt scales it to 8 bits; other programs may clip it.",
    ),
    "animated": Kind(title="Animations", severity="note", meaning="Only the first picture of the file is used."),
    "odd-size": Kind(
        title="Odd sizes",
        severity="note",
        meaning="Far smaller than the rest, or so long that the central crop cuts most of it off.",
    ),
    "passed-over": Kind(
        title="Files passed over", severity="note", meaning="They lie in class folders but have no image suffix."
    ),
}

_FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF",
    ".webp": "WEBP", ".avif": "AVIF", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip
_SAME = {"MPO": "JPEG", "DIB": "BMP"}  # MPO is a JPEG with more pictures behind the first
_SUFFIX = {"JPEG": ".jpg", "TIFF": ".tif", "PPM": ".ppm"}
_TURNS = {
    2: "mirrored", 3: "turned by 180°", 4: "mirrored upside down", 5: "mirrored and turned by 90°",
    6: "turned by 90°", 7: "mirrored and turned by 270°", 8: "turned by 270°",
}  # fmt: skip

IMBALANCE = 5  # largest class to smallest, from which on it is worth a word
FEW = 20  # training images of a class below which accuracy is a matter of luck
_LONG = 4  # ratio of the sides: the central crop keeps a quarter


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found.

    Args:
        kind: A key of `KINDS`.
        files: The images it is about, relative to the folder; none if it is about the set.
        detail: What is the matter, in words.
        suggestion: For a suspected wrong label, the class that the image looks like.
        score: Near duplicates: correlation of detail. Wrong labels: probability of the given class.
    """

    kind: str
    files: tuple[str, ...]
    detail: str
    suggestion: str = ""
    score: float | None = None


def right_suffix(inspection: Inspection) -> str:
    """Return the suffix that fits the content; the file's own if it does."""
    own = PurePath(inspection.file).suffix
    kind = _SAME.get(inspection.format, inspection.format)
    return own if _FORMATS.get(own.lower()) == kind else _SUFFIX.get(kind, f".{kind.lower()}")


def of_images(inspections: Sequence[Inspection]) -> Iterator[Finding]:
    """Yield what can be said of each image alone."""
    sides = [min(image.width, image.height) for image in inspections if not image.problem]
    usual = float(np.median(sides)) if sides else 0.0
    for image in inspections:
        files = (image.file,)
        if image.problem:
            yield Finding(kind="unreadable", files=files, detail=image.problem)
            continue
        if (suffix := right_suffix(image)) != (own := PurePath(image.file).suffix):
            yield Finding(kind="wrong-suffix", files=files, detail=f"{own} holds {image.format}, as {suffix} should")
        if image.orientation != 1:
            yield Finding(kind="rotated", files=files, detail=f"stored {_TURNS[image.orientation]}")
        if image.mode == "CMYK":
            yield Finding(kind="cmyk", files=files, detail="CMYK")
        if image.mode in ("P", "PA"):
            yield Finding(kind="palette", files=files, detail="palette")
        if image.transparent:
            yield Finding(kind="alpha", files=files, detail=image.mode)
        if image.mode.startswith("I") or image.mode == "F":
            yield Finding(kind="deep-grey", files=files, detail=image.mode)
        if image.animated:
            yield Finding(kind="animated", files=files, detail=image.format)
        short, long = sorted((image.width, image.height))
        if short < usual / 4 or long > _LONG * short:
            yield Finding(
                kind="odd-size",
                files=files,
                detail=f"{image.width} x {image.height} px; the usual shorter side is {usual:.0f} px",
            )


def of_copies(folder: ImageFolder, inspections: Sequence[Inspection], duplicates: Duplicates) -> Iterator[Finding]:
    """Yield groups of images that show one picture."""
    lowest: dict[int, float] = {}
    for (a, _), alike in zip(duplicates.pairs.tolist(), duplicates.similarity.tolist(), strict=True):
        group = int(duplicates.groups[a])
        lowest[group] = min(alike, lowest.get(group, 1.0))
    for members in duplicates.members():
        files = tuple(folder.files[i] for i in members)
        exact = len({inspections[i].content for i in members}) == 1
        score = 1.0 if exact else round(lowest[int(duplicates.groups[members[0]])], 3)
        what = "the same content" if exact else f"detail agrees by {score:.0%}"
        labels = sorted({folder.classes[folder.labels[i]] for i in members})
        parts = sorted({int(folder.fixed[i]) for i in members} - {-1})
        if len(labels) > 1:
            yield Finding(kind="conflict", files=files, detail=f"in {' and '.join(labels)}; {what}", score=score)
        if len(parts) > 1:
            names = " and ".join(SPLITS[part] for part in parts)
            yield Finding(kind="leak", files=files, detail=f"in {names}; {what}", score=score)
        yield Finding(
            kind="duplicate" if exact else "near-duplicate",
            files=files,
            detail=f"{len(files)} files, {what}",
            score=score,
        )


def of_classes(folder: ImageFolder) -> Iterator[Finding]:
    """Yield what can be said of the classes: their names and their sizes."""
    for one, other in alike_names(folder.classes):
        yield Finding(kind="alike-classes", files=(), detail=f"{one} and {other}")
    training = folder.select(np.flatnonzero(folder.fixed <= 0))
    counts = training.counts
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    if counts[most] >= IMBALANCE * max(1, counts[least]):
        yield Finding(
            kind="imbalance",
            files=(),
            detail=f"{most} has {counts[most]} training images, {least} {counts[least]}: "
            f"{counts[most] / max(1, counts[least]):.1f} times as many",
        )
    for name, count in counts.items():
        if count < FEW:
            yield Finding(kind="imbalance", files=(), detail=f"{name} has only {count} training images")


def of_other_files(folder: ImageFolder) -> Iterator[Finding]:
    """Yield the files in class folders that are no images by their suffix."""
    if folder.manifest:
        return
    inside = {PurePath(file).parts[0] for file in folder.files}
    for top in sorted(inside):
        for path in sorted((folder.path / top).rglob("*")):
            relative = path.relative_to(folder.path)
            hidden = any(part.startswith(".") for part in relative.parts)
            if not hidden and path.suffix.lower() not in SUFFIXES and path.is_file():
                yield Finding(kind="passed-over", files=(relative.as_posix(),), detail=path.suffix or "no suffix")
