"""Folders of labelled images: scan, split, digest, decode."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from tlopt.artifact import ImagesRef, sha256
from tlopt.environment import cores
from tlopt.errors import ImagesError
from tlopt.preprocess import Preprocess, read_image
from tlopt.progress import track

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
MAX_UNREADABLE = 0.1  # share of unreadable images above which work stops

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Labelled images on disk.

    Args:
        path: The folder the files are relative to.
        classes: Class names, sorted; a label is an index into them.
        files: Paths relative to `path`, sorted.
        labels: int64 (n,), parallel to `files`.
        fixed: int8 (n,), index into `SPLITS` of the part each file lies in on disk, or -1
            where the folder does not say.
    """

    path: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: np.ndarray
    fixed: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.files)

    @functools.cached_property
    def hashes(self) -> tuple[str, ...]:
        """The sha256 of each file's content."""
        paths = [self.path / name for name in self.files]
        total = len(paths)
        return tuple(track(ordered(_content, paths), label="Reading images", total=total))

    @functools.cached_property
    def digest(self) -> str:
        """Identity of the set: class names, and each file's name and content."""
        state = hashlib.sha256("\0".join(self.classes).encode())
        for name, content in zip(self.files, self.hashes, strict=True):
            state.update(f"\0{name}\0{content}".encode())
        return state.hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """Class name -> number of images."""
        numbers = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, numbers.tolist(), strict=True))

    def select(self, indices: Sequence[int] | np.ndarray) -> ImageFolder:
        """Return the images at these positions, with all classes kept."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            files=tuple(self.files[i] for i in chosen),
            labels=self.labels[chosen],
            fixed=self.fixed[chosen],
        )

    def split(self, *, val: float, test: float, seed: int) -> dict[Split, ImageFolder]:
        """Return the train, val and test parts.

        Parts that the folder has on disk are used as they are; a missing one is drawn from the
        rest, stratified by class, with files of the same content kept on one side.

        Args:
            val: Share of the images for validation, 0..1.
            test: Share of the images for the test, 0..1.
            seed: Seed of the draw.
        """
        assigned = self.fixed.copy()
        present = {SPLITS[i] for i in np.unique(assigned) if i >= 0}
        shares: dict[Split, float] = {"val": val, "test": test}
        wanted: dict[Split, float] = {part: share for part, share in shares.items() if part not in present}
        pool = np.flatnonzero((assigned < 0) | (assigned == SPLITS.index("train")))
        assigned[pool] = SPLITS.index("train")
        random = np.random.default_rng(seed)
        if any(share > 0 for share in wanted.values()):
            for label in range(len(self.classes)):
                self._draw(assigned, pool[self.labels[pool] == label], wanted, random)
        return {part: self.select(np.flatnonzero(assigned == i)) for i, part in enumerate(SPLITS)}

    def _draw(
        self, assigned: np.ndarray, members: np.ndarray, shares: dict[Split, float], random: np.random.Generator
    ) -> None:
        """Move a share of one class's images from train to the other parts."""
        groups: dict[str, list[int]] = {}
        for i in members.tolist():
            groups.setdefault(self.hashes[i], []).append(i)
        order = [list(groups.values())[k] for k in random.permutation(len(groups))]
        for part, share in shares.items():
            target, taken = round(share * len(members)), 0
            # The last group stays, so that no class is left without a training image.
            while taken < target and len(order) > 1:
                group = order.pop()
                assigned[group] = SPLITS.index(part)
                taken += len(group)


def scan(root: str | Path) -> ImageFolder:
    """Find the images below a folder of class folders.

    ``root/CLASS/**/image`` or ``root/{train,val,test}/CLASS/**/image``. Hidden files and files
    that have no image suffix are passed over.

    Raises:
        ImagesError: There is no such folder, fewer than two class folders, a class without an
            image, or a class that only some parts have.
    """
    root = Path(root)
    if not root.is_dir():
        raise ImagesError(
            f"There is no folder of images at {root}.", hint="Give a folder that holds one folder per class."
        )
    tops = _folders(root)
    parts = {_PARTS[name.lower()]: name for name in tops if name.lower() in _PARTS}
    if "train" in parts:
        found = {part: _class_files(root, name) for part, name in parts.items()}
    else:
        found = {None: _class_files(root, "")}
    classes = tuple(sorted({name for members in found.values() for name in members}))
    if len(classes) < 2:
        raise ImagesError(
            f"{root} has {len(classes)} class folder{'' if len(classes) == 1 else 's'}; "
            "a classifier needs at least two.",
            hint=f"Put the images into one folder per class: {root}/cat/1.jpg, {root}/dog/2.jpg.",
        )
    rows: list[tuple[str, int, int]] = []
    for part, members in found.items():
        for label, name in enumerate(classes):
            files = members.get(name, [])
            if not files and (part in (None, "train") or name in members):
                where = root / (parts[part] if part else "") / name
                raise ImagesError(
                    f"The class folder {where} holds no image.",
                    hint="Add images to it or remove the folder. Image suffixes: " + " ".join(sorted(SUFFIXES)),
                )
            rows += [(file, label, SPLITS.index(part) if part else -1) for file in files]
    rows.sort()
    return ImageFolder(
        path=root,
        classes=classes,
        files=tuple(file for file, _, _ in rows),
        labels=np.array([label for _, label, _ in rows], dtype=np.int64),
        fixed=np.array([part for _, _, part in rows], dtype=np.int8),
    )


_PARTS: dict[str, Split] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _class_files(root: Path, part: str) -> dict[str, list[str]]:
    """Return class name -> image paths relative to root."""
    top = root / part
    found = {}
    for name in _folders(top):
        files = []
        for folder, folders, names in os.walk(top / name):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            relative = Path(folder).relative_to(root).as_posix()
            files += [
                f"{relative}/{file}"
                for file in names
                if not file.startswith(".") and os.path.splitext(file)[1].lower() in SUFFIXES
            ]
        found[name] = sorted(files)
    return found


def _content(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:
        return "unreadable"  # reported when it is decoded


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
            f"The images in {folder.path} are not those the artifact was trained on: digest "
            f"{folder.digest[:12]}…, expected {ref.digest[:12]}…; its test split might hold training images.",
            hint="Name the images to use with --images.",
        )
    return folder.split(val=ref.val, test=ref.test, seed=ref.seed)


def ordered(function: Callable[[T], R], items: Sequence[T], *, workers: int | None = None) -> Iterator[R]:
    """Yield ``function(item)`` in order, computed by threads a bounded number of items ahead."""
    workers = workers or max(2, cores())
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images, ready for a network.

    Args:
        inputs: What `Preprocess.normalize` returns: float32 (n, 3, h, w) unless the layout or
            folding says otherwise.
        labels: int64 (n,).
        files: The images' paths relative to their folder.
    """

    inputs: np.ndarray
    labels: np.ndarray
    files: tuple[str, ...]


@dataclass
class Unreadable:
    """The images that could not be read, each with its reason; grows as decoding goes on."""

    total: int
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, file: str, reason: str) -> None:
        """Record one, and stop the work if they are more than a tenth.

        Raises:
            ImagesError: More than a tenth of the images are unreadable.
        """
        self.reasons[file] = reason
        log.warning("left out: %s", reason)
        if len(self.reasons) > max(1, MAX_UNREADABLE * self.total):
            raise ImagesError(
                f"More than {MAX_UNREADABLE:.0%} of the {self.total} images cannot be read; first: "
                f"{next(iter(self.reasons.values()))}",
                hint="tlopt data audit lists them.",
            )


def batches(
    folder: ImageFolder,
    preprocess: Preprocess,
    *,
    batch: int,
    label: str = "",
    unreadable: Unreadable | None = None,
) -> Iterator[Batch]:
    """Yield all images in order, decoded by threads and preprocessed.

    Args:
        folder: The images.
        preprocess: How a file becomes an input.
        batch: Images per batch; the last may be smaller.
        label: Name of the progress bar; none is shown if empty.
        unreadable: Collects the images left out.

    Raises:
        ImagesError: More than a tenth of the images are unreadable.
    """
    left_out = unreadable if unreadable is not None else Unreadable(len(folder))

    def pixels(index: int) -> np.ndarray | ImagesError:
        try:
            return preprocess.pixels(read_image(folder.path / folder.files[index]))
        except ImagesError as error:
            return error

    decoded: Iterator[np.ndarray | ImagesError] = ordered(pixels, range(len(folder)))
    if label:
        decoded = track(decoded, label=label, total=len(folder))
    kept: list[int] = []
    stack: list[np.ndarray] = []
    for index, result in enumerate(decoded):
        if isinstance(result, ImagesError):
            left_out.add(folder.files[index], result.message)
            continue
        kept.append(index)
        stack.append(result)
        if len(kept) == batch:
            yield _batch(folder, preprocess, kept, stack)
            kept, stack = [], []
    if kept:
        yield _batch(folder, preprocess, kept, stack)


def _batch(folder: ImageFolder, preprocess: Preprocess, kept: list[int], stack: list[np.ndarray]) -> Batch:
    return Batch(
        inputs=preprocess.normalize(np.stack(stack)),
        labels=folder.labels[kept],
        files=tuple(folder.files[i] for i in kept),
    )
