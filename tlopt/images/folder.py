"""Labelled images on disk: scan, split, digest."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tlopt.artifact import sha256
from tlopt.card import ImagesRef
from tlopt.errors import ImagesError
from tlopt.files import IMAGE_LIMIT, open_regular
from tlopt.image_files import SUFFIXES, below
from tlopt.images import manifest, parts
from tlopt.images.ordered import ordered
from tlopt.images.parts import SPLITS, Split
from tlopt.names import check_classes
from tlopt.progress import track

log = logging.getLogger(__name__)

_SMALL = 1 << 20  # files up to a megabyte are read in one go, which is twice as fast


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder:
    """Labelled images on disk.

    Args:
        path: The folder the files are relative to.
        classes: Class names, sorted; a label is an index into them.
        files: Paths relative to `path`, sorted.
        labels: int64 (n,), parallel to `files`.
        fixed: int8 (n,), index into `SPLITS` of the part each file lies in on disk, or -1
            where the folder does not say.
        origins: Where each image came from, parallel to `files`; empty if no manifest says.
        manifest: The manifest that lists the files, or None for class folders.
    """

    path: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: np.ndarray
    fixed: np.ndarray = field(repr=False)
    origins: tuple[str, ...] = field(default=(), repr=False)
    manifest: Path | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def source(self) -> Path:
        """What to give to `scan` to get the same images again."""
        return self.manifest or self.path

    def places(self) -> Iterator[Path]:
        """Yield what holds the images: the folder or manifest, each folder in it, and each file that is a link."""
        yield self.source
        files = [self.path / name for name in self.files]
        yield from {file.parent for file in files}
        yield from (file for file in files if file.is_symlink())

    @functools.cached_property
    def hashes(self) -> tuple[str, ...]:
        """The sha256 of each file's content."""
        paths = [os.path.join(self.path, name) for name in self.files]
        return tuple(track(ordered(_content, paths, chunk=32), label="Reading images", total=len(paths)))

    @functools.cached_property
    def digest(self) -> str:
        """Identity of the set: class names, and each file's name, label, part and content."""
        state = hashlib.sha256("\0".join(self.classes).encode(errors="surrogateescape"))
        for name, content in zip(self.files, self.hashes, strict=True):
            state.update(os.fsencode(f"\0{name}\0{content}"))
        if self.manifest:
            # Names of class folders say both; a manifest's paths need not.
            state.update(self.labels.tobytes() + self.fixed.tobytes())
        return state.hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """Class name -> number of images."""
        numbers = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, numbers.tolist(), strict=True))

    def select(self, indices: Sequence[int] | np.ndarray) -> ImageFolder:
        """Return the images at these positions, with all classes kept."""
        chosen = np.asarray(indices, dtype=np.int64)
        selected = replace(
            self,
            files=tuple(self.files[i] for i in chosen),
            labels=self.labels[chosen],
            fixed=self.fixed[chosen],
            origins=tuple(self.origins[i] for i in chosen) if self.origins else (),
        )
        if "hashes" in self.__dict__:
            selected.__dict__["hashes"] = tuple(self.hashes[i] for i in chosen)
        return selected

    def split(self, *, val: float, test: float, seed: int) -> dict[Split, ImageFolder]:
        """Return the train, val and test parts.

        Parts that the folder has on disk are used as they are; a missing one is drawn from the
        rest, stratified by class, with files of the same content kept on one side. A class that has
        images enough gets at least one in each part.

        Args:
            val: Share of the images for validation, 0..1.
            test: Share of the images for the test, 0..1.
            seed: Seed of the draw.

        Raises:
            SettingError: The shares leave nothing for training.
        """
        assigned = self.fixed.copy()
        present = {SPLITS[i] for i in np.unique(assigned) if i >= 0}
        shares: dict[Split, float] = {"val": val, "test": test}
        wanted: dict[Split, float] = {part: share for part, share in shares.items() if part not in present}
        pool = np.flatnonzero((assigned < 0) | (assigned == SPLITS.index("train")))
        assigned[pool] = SPLITS.index("train")
        if any(share > 0 for share in wanted.values()):
            contents = np.unique(np.array(self.hashes), return_inverse=True)[1]
            assigned[pool] = parts.assign(
                self.labels[pool], contents[pool], wanted, seed=seed, classes=len(self.classes)
            )
        return {part: self.select(np.flatnonzero(assigned == i)) for i, part in enumerate(SPLITS)}


def scan(root: str | Path) -> ImageFolder:
    """Find labelled images: a folder of class folders, or a manifest.

    ``root/CLASS/**/image`` or ``root/{train,val,test}/CLASS/**/image``; hidden files and files that
    have no image suffix are passed over. Or a CSV or Parquet file with the columns path (relative
    to the file's folder) and label, and optionally split and origin.

    Raises:
        ImagesError: There is no such folder, fewer than two class folders, a class without an
            image, or one without an image for training; or the manifest is wrong.
        MissingLibraryError: The manifest is a Parquet file and pyarrow is not installed.
    """
    root = Path(root)
    if manifest.is_manifest(root):
        rows = manifest.read(root)
        classes = _enough({row.label for row in rows}, root)
        folder = _build(root.parent, classes, rows, root)
        for label, name in enumerate(classes):
            if not np.any((folder.labels == label) & (folder.fixed <= 0)):
                raise ImagesError(f"{root} lists the class {name} for validation or test, but never for training.")
        return folder
    if not root.is_dir():
        what = "is a file, no folder of images" if root.exists() else "does not exist"
        raise ImagesError(
            f"{root} {what}.", hint="Give a folder that holds one folder per class, or a .csv or .parquet manifest."
        )
    try:
        return _scan_folders(root)
    except OSError as error:
        raise ImagesError(f"{error.filename or root} cannot be read: {error.strerror}.") from error


def _scan_folders(root: Path) -> ImageFolder:
    tops = _folders(root)
    places = _part_folders(root, tops)
    if places:
        found = {SPLITS.index(part): _class_files(root, name) for part, name in places.items()}
    else:
        found = {-1: _class_files(root, "")}
    classes = _enough({name for members in found.values() for name in members}, root)
    rows: list[manifest.Row] = []
    for part, members in found.items():
        for name in classes:
            files = members.get(name, [])
            if not files and (part <= 0 or name in members):
                where = root / (places[SPLITS[part]] if part >= 0 else "") / name
                raise ImagesError(
                    f"The class folder {where} holds no image."
                    if where.exists()
                    else f"The class {name} has no folder {where}: it could not be trained.",
                    hint="Add images to it or remove the class. Image suffixes: " + " ".join(sorted(SUFFIXES)),
                )
            rows += [manifest.Row(path=file, label=name, part=part) for file in files]
    return _build(root, classes, rows, None)


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


def _enough(names: set[str], root: Path) -> tuple[str, ...]:
    check_classes(sorted(names), root)
    if len(names) >= 2:
        return tuple(sorted(names))
    what = "label" if manifest.is_manifest(root) else "class folder"
    hint = f"Put the images into one folder per class: {root}/cat/1.jpg, {root}/dog/2.jpg."
    if what == "label":
        hint = "Name at least two classes in the column label."
    elif names and len(_folders(inner := root / next(iter(names)))) >= 2:
        hint = f"Did you mean {inner}?"
    raise ImagesError(
        f"{root} has {len(names) or 'no'} {what}{'' if len(names) == 1 else 's'}; a classifier needs at least two.",
        hint=hint,
    )


def _part_folders(root: Path, tops: Sequence[str]) -> Mapping[Split, str]:
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
    if "train" not in places or not _folders(root / places["train"]):
        return {}
    if others := sorted(set(tops) - set(places.values())):
        log.warning("%s has train, val or test folders; passed over beside them: %s", root, ", ".join(others))
    return places


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _class_files(root: Path, part: str) -> dict[str, list[str]]:
    """Return class name -> image paths relative to root."""
    top = root / part
    return {name: list(below(root, top / name)) for name in _folders(top)}


def _content(path: str) -> str:
    try:
        with open_regular(path, limit=IMAGE_LIMIT) as file:
            content = file.read(_SMALL)
            if len(content) < _SMALL:
                return hashlib.sha256(content).hexdigest()
        return sha256(Path(path))
    except OSError:
        return f"unreadable {Path(path).name}"  # reported when it is decoded


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
            f"The images in {folder.source} are not those the artifact was trained on: digest "
            f"{folder.digest[:12]}…, expected {ref.digest[:12]}…; its test split might hold training images.",
            hint="Name the images to use with --images.",
        )
    return folder.split(val=ref.val, test=ref.test, seed=ref.seed)
