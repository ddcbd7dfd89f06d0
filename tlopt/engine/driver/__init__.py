"""The few calls of the CUDA driver that running an engine takes: one contract, two packages that fulfil it.

pycuda is the first choice. It is compiled when it is installed, which needs nvcc and a C++ compiler. Where that cannot
be done, cuda-bindings does the same: it comes as a wheel.
"""

from __future__ import annotations

import functools
import importlib
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from tlopt import registry
from tlopt.errors import MissingLibraryError

# What `doctor` calls each package -> the module here that uses it, the first choice first.
_MODULES = {"pycuda": "tlopt.engine.driver.pycuda", "cuda-bindings": "tlopt.engine.driver.bindings"}
NAMES = tuple(_MODULES)
_PROBE = 1 << 20  # bytes


class DriverError(Exception):
    """CUDA refuses a call."""


class Stream(Protocol):
    """Work in order; it does not wait for CUDA's legacy stream, nor that for it."""

    @property
    def handle(self) -> int:
        """What CUDA knows it by."""

    def wait(self) -> None:
        """Return when all that was queued is done."""

    def free(self) -> None:
        """Give it back; harmless when repeated."""


class Event(Protocol):
    """A moment in a stream, by the GPU's clock."""

    def record(self, stream: Any) -> None:
        """Take the moment when the stream comes here."""

    def wait(self) -> None:
        """Return when the moment has come."""

    def ms_until(self, later: Any) -> float:
        """Return the milliseconds between two moments that have come."""

    def free(self) -> None:
        """Give it back; harmless when repeated."""


class Memory(Protocol):
    """Memory on the GPU."""

    @property
    def address(self) -> int:
        """Where it begins, a multiple of 256."""

    def free(self) -> None:
        """Give it back; harmless when repeated."""


class Locked(Protocol):
    """Page-locked memory of the host: only from it can the GPU copy while the processor goes on."""

    @property
    def array(self) -> np.ndarray:
        """The memory, until it is given back."""

    def free(self) -> None:
        """Give it back; harmless when repeated."""


class Driver(Protocol):
    """What makes the above. All but `current` wants the context to be current; each call may raise `DriverError`."""

    name: str

    def current(self) -> AbstractContextManager[None]:
        """Make the first GPU's primary context current in this thread, and what was current again after."""

    def stream(self) -> Stream:
        """Make a stream."""

    def event(self) -> Event:
        """Make an event."""

    def memory(self, size: int) -> Memory:
        """Allocate bytes on the GPU."""

    def locked(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Locked:
        """Allocate a page-locked array."""

    def copy_in(self, target: Any, source: np.ndarray, stream: Any) -> None:
        """Queue a copy from a page-locked, contiguous array to memory on the GPU."""

    def copy_out(self, target: np.ndarray, source: Any, stream: Any) -> None:
        """Queue a copy from memory on the GPU to a page-locked, contiguous array."""


def load() -> Driver:
    """Return the driver through the first package that loads.

    Raises:
        MissingLibraryError: None does; the error is that of the first choice.
    """
    reasons = []
    for name in NAMES:
        try:
            return through(name)
        except MissingLibraryError as error:
            reasons.append(error)
    raise MissingLibraryError(
        " ".join(reason.message for reason in reasons),
        hint=f"{reasons[0].hint}, or without a compiler: python -m pip install cuda-bindings",
    )


@functools.cache
def through(name: str) -> Driver:
    """Return the driver through one of the packages in `NAMES`, one for the life of the process.

    Raises:
        MissingLibraryError: It is not installed, or does not load.
    """
    module: Any = importlib.import_module(_MODULES[name])
    made: Driver = module.load()
    return made


def problem(name: str = "") -> str:
    """Return why a package cannot allocate memory on the GPU, found by trying; empty if it can.

    Args:
        name: One of `NAMES`; empty for the one that `load` takes.
    """
    try:
        driver = through(name) if name else load()
    except MissingLibraryError as error:
        return str(error)
    try:
        with driver.current():
            driver.memory(_PROBE).free()
    except DriverError as error:
        return f"CUDA does not allocate memory on the GPU: {error}"
    return ""


def require(module: str, package: str, mend: str) -> Any:
    """Import a package's module.

    Raises:
        MissingLibraryError: It is not installed, or does not load.
    """
    try:
        return registry.require(module)
    except MissingLibraryError:
        raise
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingLibraryError(f"{package} is installed but does not load: {error}", hint=mend) from error
