"""Several sets made one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from tlopt.data import duplicates
from tlopt.data.collection import Collection, Entry, Places, dropped, opened, write
from tlopt.data.inspection import inspect_all
from tlopt.errors import ImagesError, SettingError, suggestion
from tlopt.images import ImageFolder, intrusion, scan
from tlopt.publishing import check_place, draft
from tlopt.reading.files import real_path
from tlopt.settings import Setting, checked


@checked
def merge(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    map: Annotated[  # noqa: A002 - the name of the option
        tuple[str, ...] | None,
        Setting("Class of a source and its new name in the result.", metavar="CAT=FELINE"),
    ] = None,
    similarity: Annotated[
        float,
        Setting(
            "Similarity above which two images count as near duplicates. One of them stays. 1 finds exact copies only.",
            minimum=0.5,
            maximum=1,
        ),
    ] = 0.95,
    files: Annotated[
        Literal["copy", "link"],
        Setting("copy copies the files. link makes hard links, which share the source's content."),
    ] = "copy",
    force: bool = False,
) -> Collection:
    """Merge several sets of images into one.

    Takes folders with one folder per class, or manifests. Each image is taken once. The manifest of
    the result names the source of each image.

    Parts are kept if all sources have them. An image in the test part of one source never becomes a
    training image.

    From Python:
        sources: Folders of class folders, or manifests.
        out: Folder to make.
        force: Replace `out` if it exists.

    Raises:
        SettingError: A setting does not fit, or the map names an unknown class.
        ImagesError: A source cannot be used, or nothing of a class remains.
        OutputExistsError: `out` exists and `force` is not set.
    """
    if not sources:
        raise SettingError("merge needs at least one source.")
    check_place(out, force=force, reads=sources, makes="set")
    folders = [scan(source) for source in sources]
    read = [place for folder in folders for place in folder.places()]
    check_place(out, force=force, reads=read, makes="set")
    intrusion.refuse(out, sources)
    renamed = _renamed(map or (), sorted({name for folder in folders for name in folder.classes}))
    origins = _names(folders)
    parted = all(bool(np.all(folder.fixed >= 0)) for folder in folders)
    notes = []
    if not parted and any(np.any(folder.fixed >= 0) for folder in folders):
        notes.append("Not all sources have parts, so the result has none: split it again with tlopt data split.")

    inspections = [one for folder in folders for one in inspect_all(folder)]
    labels = [renamed.get(f.classes[label], f.classes[label]) for f in folders for label in f.labels.tolist()]
    parts = [part if parted else -1 for folder in folders for part in folder.fixed.tolist()]
    reasons = dropped(labels, parts, inspections, duplicates.find(inspections, similarity=similarity))
    entries, places, i = [], Places(), 0
    for folder, origin in zip(folders, origins, strict=True):
        for k, file in enumerate(folder.files):
            reason = reasons.get(i, "")
            entries.append(
                Entry(
                    source=folder.path / file,
                    shown=str(folder.path / file),
                    target="" if reason else places.place(labels[i], parts[i], Path(file).name),
                    label=labels[i],
                    part=parts[i],
                    # A set that was merged before knows better where its images came from.
                    origin=(folder.origins[k] if folder.origins else "") or origin,
                    action="left out" if reason else "copied",
                    reason=reason,
                )
            )
            i += 1
    if lost := sorted(set(labels) - {entry.label for entry in entries if entry.target and entry.part <= 0}):
        raise ImagesError(
            f"No image of the class {lost[0]} would remain for training: its images are unreadable or have copies "
            "with another label.",
            hint="tlopt data audit shows them.",
        )
    with draft(out, force=force, reads=read, makes="set") as made:
        write(entries, made.folder, link=files == "link")
    return opened(out, entries, tuple(notes))


def _renamed(pairs: Sequence[str], classes: Sequence[str]) -> Mapping[str, str]:
    renamed: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = (part.strip() for part in pair.partition("="))
        if not (old and equals and new):
            raise SettingError(f"map takes old=new, got {pair!r}.", hint="For example --map cat=feline.")
        if old not in classes:
            raise SettingError(f"map names the class {old!r}, which no source has.", hint=suggestion(old, classes))
        if renamed.setdefault(old, new) != new:
            raise SettingError(f"map gives the class {old!r} two names: {renamed[old]} and {new}.")
    return renamed


def _names(folders: Sequence[ImageFolder]) -> list[str]:
    """Return a name for each source: its folder's, with as much of the path as tells them apart."""
    paths = [real_path(folder.source) for folder in folders]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise SettingError(f"The source {twice} is given twice.")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.with_suffix("").parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
