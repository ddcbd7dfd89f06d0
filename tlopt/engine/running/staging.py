"""A batch on its way to the GPU through page-locked memory, for runtimes that copy from wherever it lies."""

from __future__ import annotations

import contextlib

import numpy as np

from tlopt.engine import driver as drivers
from tlopt.engine.driver import Driver, DriverError, Locked
from tlopt.engine.running.filling import fill
from tlopt.errors import MissingLibraryError

SMALL = 1 << 20  # bytes that the GPU gets as fast from anywhere


class Staging:
    """Page-locked memory of the largest batch so far.

    Attributes:
        works: Whether memory can be page-locked here: that takes pycuda or cuda-bindings.
    """

    def __init__(self) -> None:
        self._driver: Driver | None = None
        self._held: Locked | None = None
        with contextlib.suppress(MissingLibraryError):
            self._driver = drivers.load()
        self.works = self._driver is not None

    def put(self, inputs: np.ndarray) -> np.ndarray:
        """Return a batch in page-locked memory, until the next one is put there; itself if it is small or that fails.

        Args:
            inputs: (n, ...), contiguous.
        """
        if self._driver is None or inputs.nbytes < SMALL:
            return inputs
        held = None if self._held is None else self._held.array
        if held is None or held.dtype != inputs.dtype or held.shape[1:] != inputs.shape[1:] or len(held) < len(inputs):
            self.close()
            try:
                with self._driver.current():
                    self._held = self._driver.locked(inputs.shape, inputs.dtype)
            except DriverError:  # there is too little of it
                self._driver, self.works = None, False
                return inputs
            held = self._held.array
        target = held[: len(inputs)]
        fill(target, inputs)
        return target

    def close(self) -> None:
        """Give the memory back; harmless when repeated."""
        held, self._held = self._held, None
        if held is not None and self._driver is not None:
            with contextlib.suppress(DriverError), self._driver.current():  # lost with the process, then
                held.free()
