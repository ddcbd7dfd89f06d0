"""What the runs of a measurement are fed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tlopt.artifact import Artifact
from tlopt.errors import ImagesError
from tlopt.images import batches, scan
from tlopt.preprocess import Preprocess

_POOL = 32  # distinct photos at least that the runs go through


class Inputs:
    """The images that runs see, by preprocessing.

    Attributes:
        what: What they are, in words.
    """

    def __init__(self, images: Path | None, *, noise: bool, largest: int) -> None:
        self._images, self._noise = images, noise
        self._count = -(-_POOL // largest) * largest
        self._pools: dict[tuple[Preprocess, str], np.ndarray] = {}
        self.what = ""

    def of(self, artifact: Artifact) -> np.ndarray:
        """Return a pool of inputs: photos if there are any, otherwise noise; never zeros."""
        preprocess, ref = artifact.card.preprocess, artifact.card.images
        folder = self._images or (Path(ref.path) if ref else None)
        key = (preprocess, str(folder))
        if key not in self._pools:
            pool = None if self._noise or folder is None else self._photos(folder, preprocess)
            if pool is None:
                pool = _noise(preprocess, self._count)
                self.what = self.what or "noise of the inputs' mean and spread"
            self._pools[key] = pool
        return self._pools[key]

    def _photos(self, path: Path, preprocess: Preprocess) -> np.ndarray | None:
        try:
            folder = scan(path)
        except ImagesError:
            if self._images is not None:
                raise
            return None  # the training images are gone: noise is as good for the clock
        spread = np.linspace(0, len(folder) - 1, min(self._count, len(folder))).round().astype(int)
        chosen = folder.select(np.unique(spread))
        pool = np.concatenate([chunk.inputs for chunk in batches(chosen, preprocess, batch=self._count)])
        self.what = f"{len(pool)} photos of {path}, decoded and preprocessed before"
        return np.resize(pool, (self._count, *pool.shape[1:]))


def _noise(preprocess: Preprocess, count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    shape = (count, *preprocess.input_shape)
    if preprocess.folded:
        return random.integers(0, 256, shape, dtype=np.uint8)
    return random.standard_normal(shape, dtype=np.float32)
