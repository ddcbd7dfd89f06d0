"""One set made training, validation and test parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from tlopt.data import duplicates
from tlopt.data.collection import Collection, Entry, Places, opened, write
from tlopt.data.inspection import inspect_all
from tlopt.errors import ImagesError, SettingError
from tlopt.images import SPLITS, ImageFolder, intrusion, parts, scan
from tlopt.publishing import check_place, draft
from tlopt.settings import Setting, checked


@checked
def split(
    images: str | Path,
    out: str | Path,
    *,
    val: Annotated[float, Setting("Share of the images for validation.", minimum=0, maximum=0.9)] = 0.15,
    test: Annotated[float, Setting("Share of the images for the final test.", minimum=0, maximum=0.9)] = 0.15,
    seed: Annotated[int, Setting("Seed of the random split.", minimum=0)] = 0,
    group_by: Annotated[
        str | None,
        Setting(
            "Regular expression for the path of an image. Images with the same first group stay in one part.",
            metavar="REGEX",
        ),
    ] = None,
    similarity: Annotated[
        float,
        Setting(
            "Similarity above which two images count as near duplicates. They stay in one part. 1 finds exact"
            " copies only.",
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
    """Split images into parts to train, validate and test.

    Takes a folder with one folder per class, or a manifest. Each part gets the same share of every
    class. Near duplicates stay in one part. Parts that the images have already are dissolved.

    From Python:
        images: A folder of class folders, or a manifest.
        out: Folder to make; it holds part/class/image and a manifest.
        force: Replace `out` if it exists.

    Raises:
        SettingError: A setting does not fit, the pattern is wrong or matches no image, or there are
            too few groups.
        ImagesError: The images cannot be used, or none of a class is readable.
        OutputExistsError: `out` exists and `force` is not set.
    """
    check_place(out, force=force, reads=[images], makes="set")
    folder = scan(images)
    check_place(out, force=force, reads=folder.places(), makes="set")
    intrusion.refuse(out, [images])
    pattern = _pattern(group_by) if group_by else None
    named = _named(folder, pattern) if pattern else np.empty((0, 2), dtype=np.int64)
    inspections = inspect_all(folder)
    found = duplicates.find(inspections, similarity=similarity)
    groups = duplicates.connected(len(folder), np.concatenate([found.pairs, named]))
    readable = np.array([i for i, one in enumerate(inspections) if not one.problem], dtype=np.int64)
    missing = set(range(len(folder.classes))) - set(folder.labels[readable].tolist())
    if missing:
        raise ImagesError(f"No image of the class {folder.classes[min(missing)]} can be read.")
    assigned = np.full(len(folder), -1, dtype=np.int8)
    assigned[readable] = parts.assign(
        folder.labels[readable], groups[readable], {"val": val, "test": test}, seed=seed, classes=len(folder.classes)
    )
    entries, places = [], Places()
    for i, file in enumerate(folder.files):
        name, part, problem = folder.classes[folder.labels[i]], int(assigned[i]), inspections[i].problem
        entries.append(
            Entry(
                source=folder.path / file,
                shown=file,
                target="" if problem else places.place(name, part, Path(file).name),
                label=name,
                part=part,
                origin=folder.origins[i] if folder.origins else "",
                action="left out" if problem else "copied",
                reason=f"unreadable: {problem}" if problem else "",
            )
        )
    with draft(out, force=force, reads=folder.places(), makes="set") as made:
        write(entries, made.folder, link=files == "link")
    return opened(out, entries, _notes(folder, groups, assigned, val, test))


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise SettingError(
            f"group_by is not a regular expression: {error}.", hint=r"For example 'IMG_(\d\d)' or 'person(\d+)'."
        ) from error
    if not pattern.groups:
        raise SettingError(
            f"group_by needs a group in parentheses, got {text!r}.",
            hint=r"For example 'person(\d+)' for person7-3.jpg.",
        )
    return pattern


def _named(folder: ImageFolder, pattern: re.Pattern[str]) -> np.ndarray:
    """Return pairs of images that the pattern names alike: int64 (m, 2)."""
    first: dict[str, int] = {}
    pairs = []
    for i, file in enumerate(folder.files):
        match = pattern.search(file)
        if match and match.group(1) is not None:
            pairs.append((first.setdefault(match.group(1), i), i))
    if not pairs:
        raise SettingError(
            f"group_by {pattern.pattern!r} matches no image of {folder.path}.", hint=f"One image is {folder.files[0]}."
        )
    return np.array(pairs, dtype=np.int64)


def _notes(folder: ImageFolder, groups: np.ndarray, assigned: np.ndarray, val: float, test: float) -> tuple[str, ...]:
    notes = []
    if np.any(folder.fixed >= 0):
        notes.append("The parts that the images had before were dissolved.")
    sizes = np.bincount(groups)
    if several := int((sizes > 1).sum()):
        span = "2" if sizes.max() == 2 else f"2 to {int(sizes.max())}"
        notes.append(f"Groups of {span} images that stayed in one part: {several}.")
    for part, share in (("val", val), ("test", test)):
        got = float((assigned == SPLITS.index(part)).sum() / max(1, (assigned >= 0).sum()))
        if abs(got - share) > max(0.02, 0.2 * share):
            notes.append(f"{part} got {got:.1%} of the images instead of {share:.1%}: groups cannot be divided.")
    return tuple(notes)
