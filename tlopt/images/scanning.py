"""Finding labelled images: class folders, parts on disk, manifests."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tlopt.cards.card import ImagesRef
from tlopt.errors import ImagesError
from tlopt.images import manifest
from tlopt.images.folder import ImageFolder
from tlopt.images.mistaken import telling
from tlopt.images.parts import SPLITS, Split
from tlopt.reading.image_files import SUFFIXES, below, is_folder
from tlopt.reading.names import check_classes

log = logging.getLogger(__name__)


def scan(root: str | Path, *, known: Collection[str] = ()) -> ImageFolder:
    """Find labelled images: a folder of class folders, or a manifest.

    ``root/CLASS/**/image`` or ``root/{train,val,test}/CLASS/**/image``; hidden files and files that
    have no image suffix are passed over. Or a CSV or Parquet file with the columns path (relative
    to the file's folder) and label, and optionally split and origin.

    Args:
        root: The folder, or the manifest.
        known: Classes that a network knows already. Images of some of them will do then.

    Raises:
        ImagesError: There is no such folder, fewer than two class folders, a class without an
            image, or one without an image for training; or the manifest is wrong.
        MissingLibraryError: The manifest is a Parquet file and pyarrow is not installed.
    """
    root = Path(root)
    if manifest.is_manifest(root):
        rows = manifest.read(root)
        classes = _enough({row.label for row in rows}, root, known)
        folder = _build(root.parent, classes, rows, root)
        for label, name in enumerate(classes):
            if not known and not np.any((folder.labels == label) & (folder.fixed <= 0)):
                raise ImagesError(f"{root} lists the class {name} for validation or test, but never for training.")
        return folder
    if not root.is_dir():
        what = "is a file, not a folder of images" if root.exists() else "does not exist"
        raise ImagesError(
            f"{root} {what}.", hint="Give a folder that holds one folder per class, or a .csv or .parquet manifest."
        )
    with telling(root):
        try:
            return _scan_folders(root, known)
        except OSError as error:
            raise ImagesError(f"{error.filename or root} cannot be read: {error.strerror}.") from error


def _scan_folders(root: Path, known: Collection[str]) -> ImageFolder:
    tops = class_folders(root)
    places = _part_folders(root, tops)
    if places:
        found = {SPLITS.index(part): _class_files(root, name) for part, name in places.items()}
    else:
        found = {-1: _class_files(root, "")}
    names = {name for members in found.values() for name, files in members.items() if files or name not in known}
    classes = _enough(names, root, known)
    rows: list[manifest.Row] = []
    for part, members in found.items():
        for name in classes:
            files = members.get(name, [])
            if not files and name not in known and (part <= 0 or name in members):
                where = root / (places[SPLITS[part]] if part >= 0 else "") / name
                raise ImagesError(
                    f"The class folder {where} holds no image."
                    if where.exists()
                    else f"The class {name} has no folder {where}: it could not be trained.",
                    hint="Add images to it or remove the class. Image suffixes: " + " ".join(sorted(SUFFIXES)),
                )
            rows += [manifest.Row(path=file, label=name, part=part) for file in files]
    return _build(root, classes, rows, None)


def scan_any(root: str | Path, *, known: Collection[str] = ()) -> ImageFolder:
    """Find images whose labels do not matter: labelled ones, or all images below a folder without class folders.

    Args:
        root: The folder, or a manifest.
        known: Classes that a network knows already.

    Raises:
        ImagesError: There is no such folder, or no image in it; or class folders or a manifest are wrong.
    """
    root = Path(root)
    try:
        return scan(root, known=known)
    except ImagesError:
        if manifest.is_manifest(root) or not root.is_dir() or len(class_folders(root)) > 1:
            raise
    return _unlabelled(root)


def is_flat(root: str | Path) -> bool:
    """Return whether a path is a folder that cannot hold class folders: it has one folder at most."""
    root = Path(root)
    try:
        return root.is_dir() and len(class_folders(root)) <= 1
    except OSError:  # told when it is scanned
        return False


def every_image(root: str | Path) -> ImageFolder:
    """Find images without labels, for a network without classes: all below a folder, or those of a manifest.

    Args:
        root: The folder, or a manifest.

    Raises:
        ImagesError: There is no such folder, or no image in it; or the manifest is wrong.
    """
    root = Path(root)
    if manifest.is_manifest(root):
        rows = manifest.read(root)
        labelled = _build(root.parent, tuple(sorted({row.label for row in rows})), rows, root)
        return replace(labelled, classes=(), labels=np.zeros_like(labelled.labels))
    if not root.is_dir():
        what = "is a file, not a folder of images" if root.exists() else "does not exist"
        raise ImagesError(f"{root} {what}.", hint="Give a folder of images, or a .csv or .parquet manifest.")
    return _unlabelled(root)


def image_files(root: Path) -> list[str]:
    """Return the paths of all images below a folder, relative to it, sorted.

    Raises:
        ImagesError: There is none, or a folder cannot be read.
    """
    with telling(root):
        try:
            files = sorted(below(root, root))
        except OSError as error:
            raise ImagesError(f"{error.filename or root} cannot be read: {error.strerror}.") from error
        if not files:
            raise ImagesError(f"{root} holds no image.", hint=f"Image suffixes: {' '.join(sorted(SUFFIXES))}")
        return files


def _unlabelled(root: Path) -> ImageFolder:
    files = image_files(root)
    return ImageFolder(
        path=root,
        classes=(),
        files=tuple(files),
        labels=np.zeros(len(files), np.int64),
        fixed=np.full(len(files), -1, np.int8),
    )


def _build(path: Path, classes: tuple[str, ...], rows: Iterable[manifest.Row], listed: Path | None) -> ImageFolder:
    rows = sorted(rows, key=lambda row: row.path)
    index = {name: label for label, name in enumerate(classes)}
    return ImageFolder(
        path=path,
        classes=classes,
        files=tuple(row.path for row in rows),
        labels=np.array([index[row.label] for row in rows], dtype=np.int64),
        fixed=np.array([row.part for row in rows], dtype=np.int8),
        origins=tuple(row.origin for row in rows) if any(row.origin for row in rows) else (),
        manifest=listed,
    )


def _enough(names: set[str], root: Path, known: Collection[str]) -> tuple[str, ...]:
    check_classes(sorted(names), root)
    if len(names) >= 2 or (names and names <= set(known)):
        return tuple(sorted(names))
    what = "label" if manifest.is_manifest(root) else "class folder"
    hint = f"Put the images into one folder per class: {root}/cat/1.jpg, {root}/dog/2.jpg."
    if what == "label":
        hint = "Name at least two classes in the column label."
    elif names and len(class_folders(inner := root / next(iter(names)))) >= 2:
        hint = f"Did you mean {inner}?"
    raise ImagesError(
        f"{root} has {len(names) or 'no'} {what}{'' if len(names) == 1 else 's'}; a classifier needs at least two.",
        hint=hint,
    )


def _part_folders(root: Path, tops: Sequence[str]) -> Mapping[Split, str]:
    """Return what `parts_of` does; warn of folders that are no parts."""
    places = parts_of(root, tops)
    if places and (others := sorted(set(tops) - set(places.values()))):
        log.warning("%s has train, val or test folders. Its other folders are ignored: %s", root, ", ".join(others))
    return places


def parts_of(root: Path, tops: Sequence[str]) -> Mapping[Split, str]:
    """Return part -> its folder, or nothing where the folders are classes."""
    places: dict[Split, str] = {}
    for name in tops:
        if part := manifest.PARTS.get(name.lower()):
            if part in places:
                raise ImagesError(
                    f"{root} has two folders for the {part} part: {places[part]} and {name}.",
                    hint="Merge or rename one of them.",
                )
            places[part] = name
    # "train" may also be a class of vehicles: a part holds class folders, a class holds images.
    if "train" not in places or not class_folders(root / places["train"]):
        return {}
    return places


def class_folders(root: Path) -> list[str]:
    """Return the names of the folders in a folder, hidden ones passed over: its classes, or its parts."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if is_folder(entry) and not entry.name.startswith("."))


def _class_files(root: Path, part: str) -> dict[str, list[str]]:
    """Return class name -> image paths relative to root."""
    top = root / part
    return {name: list(below(root, top / name)) for name in class_folders(top)}


def reopen(ref: ImagesRef, path: str | Path | None = None) -> dict[Split, ImageFolder]:
    """Open the images an artifact was trained on and split them as they were.

    Args:
        ref: From the artifact's card.
        path: Where the images are now, if not where they were.

    Raises:
        ImagesError: They are gone or have changed.
    """
    folder = scan(path or ref.path)
    if folder.digest != ref.digest:
        raise ImagesError(
            f"The images in {folder.source} are not the images that the artifact was trained on. Their digest is "
            f"{folder.digest[:12]}…, expected {ref.digest[:12]}…. Their test part may hold training images.",
            hint="Name the images to use with --images.",
        )
    return folder.split(val=ref.val, test=ref.test, seed=ref.seed, whole=ref.folds > 0)
