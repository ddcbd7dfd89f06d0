"""A cleaned copy of a set: what an audit found and a program can mend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from tlopt.data.collection import Collection, Entry, Places, dropped, opened, write
from tlopt.data.duplicates import Duplicates
from tlopt.data.findings import right_suffix
from tlopt.data.inspection import Inspection
from tlopt.errors import ImagesError
from tlopt.images import ImageFolder, ordered
from tlopt.progress import track
from tlopt.publishing import draft
from tlopt.reading.image_files import read_image
from tlopt.reading.pictures import to_rgb, upright

_QUALITY = 95  # of a JPEG that must be written anew, at full color resolution


def clean(
    folder: ImageFolder,
    inspections: Sequence[Inspection],
    duplicates: Duplicates,
    out: Path,
    *,
    force: bool,
) -> Collection:
    """Write a copy without unreadable files and duplicates, with right suffixes, upright and RGB.

    Files that need nothing are copied byte by byte. Suspected wrong labels stay as they are: only a
    person can judge them.

    Raises:
        ImagesError: Nothing of a class would remain for training.
    """
    labels = [folder.classes[label] for label in folder.labels.tolist()]
    reasons = dropped(labels, folder.fixed.tolist(), inspections, duplicates)
    entries, places = [], Places()
    for i, (file, one) in enumerate(zip(folder.files, inspections, strict=True)):
        changes = _changes(one)
        target, reason = "", reasons.get(i, "")
        if i not in reasons:
            target = places.place(labels[i], int(folder.fixed[i]), _name(one, bool(changes)))
            if PurePosixPath(target).suffix != PurePosixPath(file).suffix and not changes:
                reason = "suffix corrected"
            else:
                reason = ", ".join(changes)
        entries.append(
            Entry(
                source=folder.path / file,
                shown=file,
                target=target,
                label=labels[i],
                part=int(folder.fixed[i]),
                origin=folder.origins[i] if folder.origins else "",
                action="left out" if i in reasons else "converted" if changes else "copied",
                reason=reason,
            )
        )
    if lost := sorted(set(labels) - {entry.label for entry in entries if entry.target and entry.part <= 0}):
        raise ImagesError(
            f"No image of the class {lost[0]} would remain for training: its images are unreadable or have copies "
            "with another label.",
            hint="Look at the findings before you use --fix.",
        )
    with draft(out, force=force, reads=folder.places(), makes="set") as made:
        rewritten = [entry for entry in entries if entry.action == "converted"]
        done = ordered(lambda entry: _convert(entry.source, made / entry.target), rewritten)
        for _ in track(done, label="Converting images", total=len(rewritten)):
            pass
        write(entries, made.folder)
    return opened(out, entries)


def _changes(one: Inspection) -> list[str]:
    """Return why a file must be written anew; none if a copy will do."""
    changes = []
    if one.orientation != 1:
        changes.append("turned upright")
    if one.transparent:
        changes.append("transparency put over white")
    if one.mode not in ("RGB", "L") and not (one.mode == "1" and not one.transparent):
        changes.append(f"{one.mode} converted to RGB")
    if one.animated and not one.problem:
        changes.append("first picture of an animation")
    return changes


def _name(one: Inspection, converted: bool) -> str:
    name = PurePosixPath(one.file).name
    stem, own = os.path.splitext(name)
    if converted:
        # Lossy formats stay JPEG, all others become PNG, which loses nothing.
        suffix = ".jpg" if one.format in ("JPEG", "MPO") else ".png"
        return name if own.lower() == suffix or (suffix == ".jpg" and own.lower() == ".jpeg") else stem + suffix
    right = right_suffix(one)
    return name if own == right else stem + right


def _convert(source: Path, target: Path) -> None:
    image = to_rgb(upright(read_image(source)))
    plain = Image.new("RGB", image.size)  # without EXIF, color profile and the like
    plain.paste(image)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix.lower() in (".jpg", ".jpeg"):
        plain.save(target, "JPEG", quality=_QUALITY, subsampling=0)
    else:
        plain.save(target, "PNG")
