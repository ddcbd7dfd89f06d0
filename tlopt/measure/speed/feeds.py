"""What the runs of a measurement are fed with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from tlopt.artifact import Artifact
from tlopt.errors import ImagesError, SettingError
from tlopt.images import batches
from tlopt.images.scanning import every_image, scan_any
from tlopt.preprocess import Preprocess
from tlopt.process.memory import physical_bytes
from tlopt.reading.image_files import read_image

_POOL = 32  # distinct images at least that the runs go through


class Inputs:
    """The images that runs see, by preprocessing.

    Attributes:
        what: What they are, in words.
    """

    def __init__(self, images: Path | None, *, noise: bool, largest: int) -> None:
        self._images, self._noise, self._largest = images, noise, largest
        self._count = -(-_POOL // largest) * largest
        self._pools: dict[tuple[Preprocess, str], np.ndarray] = {}
        self._files: dict[tuple[Preprocess, str], list[Path]] = {}
        self.what = ""

    def of(self, artifact: Artifact) -> np.ndarray:
        """Return a pool of inputs: images if there are any, otherwise noise; never zeros.

        Raises:
            SettingError: Memory does not hold a batch.
        """
        preprocess, folder = artifact.card.preprocess, self._folder(artifact)
        key = (preprocess, str(folder))
        if key not in self._pools:
            self._expect_room(preprocess)
            pool = None if self._noise or folder is None else self._decoded(folder, artifact)
            if pool is None:
                pool = _noise(preprocess, self._count)
                self.what = self.what or "noise of the inputs' mean and spread"
            self._pools[key] = pool
        return self._pools[key]

    def _expect_room(self, preprocess: Preprocess) -> None:
        """Refuse more images than memory holds: the system would end the process, or slow down all others."""
        held = physical_bytes()
        needed = self._count * math.prod(preprocess.input_shape) * (1 if preprocess.folded else 4)
        if held and needed > held / 2:
            raise SettingError(
                f"A batch of {self._largest} images takes {needed / 1e9:,.0f} GB; there are {held / 1e9:,.0f} GB.",
                hint="Try a smaller --batch.",
            )

    def from_disk(self, artifact: Artifact, batch: int, workers: Executor) -> Callable[[], np.ndarray]:
        """Return a call that reads, decodes and preprocesses the next images, round and round.

        Args:
            artifact: What they are for.
            batch: Images per call; several are decoded by the workers at once.
            workers: Threads.

        Raises:
            ImagesError: There are no images.
        """
        preprocess = artifact.card.preprocess
        self.of(artifact)
        files = self._files.get((preprocess, str(self._folder(artifact))))
        if not files:
            raise ImagesError(
                f"The end-to-end time of {artifact.path} needs images, and there are none.",
                hint="Name a folder with --images, and leave out --noise.",
            )
        source = itertools.cycle(files)

        def pixels(file: Path) -> np.ndarray:
            return preprocess.pixels(read_image(file))

        def read() -> np.ndarray:
            if batch == 1:
                return preprocess.normalize(pixels(next(source))[None])
            chosen = list(itertools.islice(source, batch))
            return preprocess.normalize(np.stack(list(workers.map(pixels, chosen))))

        return read

    def _folder(self, artifact: Artifact) -> Path | None:
        ref = artifact.card.images
        return self._images or (Path(ref.path) if ref else None)

    def _decoded(self, path: Path, artifact: Artifact) -> np.ndarray | None:
        preprocess = artifact.card.preprocess
        try:
            any_image = artifact.card.task == "any"
            folder = every_image(path) if any_image else scan_any(path, known=artifact.card.classes)
        except ImagesError:
            if self._images is not None:
                raise
            return None  # the training images are gone: noise is as good for the clock
        spread = np.linspace(0, len(folder) - 1, min(self._count, len(folder))).round().astype(int)
        chosen = folder.select(np.unique(spread))
        chunks = list(batches(chosen, preprocess, batch=self._count))
        pool = np.concatenate([chunk.inputs for chunk in chunks])
        self._files[preprocess, str(path)] = [folder.path / file for chunk in chunks for file in chunk.files]
        self.what = f"{len(pool)} images of {path}, decoded and preprocessed before"
        return np.resize(pool, (self._count, *pool.shape[1:]))


def _noise(preprocess: Preprocess, count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    shape = (count, *preprocess.input_shape)
    if preprocess.folded:
        return random.integers(0, 256, shape, dtype=np.uint8)
    return random.standard_normal(shape, dtype=np.float32)
