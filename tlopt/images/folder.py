"""Labelled images on disk: split, digest."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tlopt.artifact import sha256
from tlopt.images import parts
from tlopt.images.ordered import ordered
from tlopt.images.parts import SPLITS, Split
from tlopt.progress import track
from tlopt.reading.files import IMAGE_LIMIT, open_regular

_SMALL = 1 << 20  # files up to a megabyte are read in one go, which is twice as fast


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder:
    """Labelled images on disk.

    Args:
        path: The folder the files are relative to.
        classes: Class names, sorted unless a network gives their order; a label is an index into them.
            Empty if the images have no labels: those are zeros then.
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
        if not self.classes:
            return {}
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

    def labelled(self, labels: np.ndarray, classes: tuple[str, ...]) -> ImageFolder:
        """Return the same images with other labels, int64 (n,), indices into `classes`."""
        changed = replace(self, labels=labels, classes=classes)
        if "hashes" in self.__dict__:
            changed.__dict__["hashes"] = self.hashes
        return changed

    def split(self, *, val: float, test: float, seed: int, whole: bool = False) -> dict[Split, ImageFolder]:
        """Return the train, val and test parts.

        Parts that the folder has on disk are used as they are; a missing one is drawn from the
        rest, stratified by class, with files of the same content kept on one side. A class that has
        images enough gets at least one in each part.

        Args:
            val: Share of the images for validation, 0..1.
            test: Share of the images for the test, 0..1.
            seed: Seed of the draw.
            whole: Give the val part to training, too; the test part is the same with and without.

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
                self.labels[pool], contents[pool], wanted, seed=seed, classes=max(1, len(self.classes))
            )
        if whole:
            assigned[assigned == SPLITS.index("val")] = SPLITS.index("train")
        return {part: self.select(np.flatnonzero(assigned == i)) for i, part in enumerate(SPLITS)}


def _content(path: str) -> str:
    try:
        with open_regular(path, limit=IMAGE_LIMIT) as file:
            content = file.read(_SMALL)
            if len(content) < _SMALL:
                return hashlib.sha256(content).hexdigest()
        return sha256(Path(path))
    except OSError:
        return f"unreadable {Path(path).name}"  # reported when it is decoded
