"""The driver through cuda-bindings, NVIDIA's own package."""

from __future__ import annotations

import atexit
import ctypes
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tlopt.engine import driver
from tlopt.engine.driver import DriverError

_MEND = "python -m pip install --upgrade cuda-bindings"


def load() -> Driver:
    """Return the driver.

    Raises:
        MissingLibraryError: cuda-bindings is not installed, or finds no driver.
    """
    return Driver(driver.require("cuda.bindings.driver", "cuda-bindings", _MEND))


def call(api: Any, function: str, *arguments: Any) -> Any:
    """Call a function of ``cuda.bindings.driver``: each returns its status first, then what it made.

    Raises:
        DriverError: CUDA refuses.
    """
    try:
        status, *made = getattr(api, function)(*arguments)
    except RuntimeError as error:  # the driver does not load, or is too old to have the function
        raise DriverError(f"{function} cannot be called: {error}") from error
    if int(status) != 0:
        _, text = api.cuGetErrorString(status)
        raise DriverError(f"{function} failed: {text.decode() if text else f'error {int(status)}'}")
    return made[0] if made else None


class _Made:
    """Something that the driver made and that one of its functions frees."""

    _free = ""

    def __init__(self, api: Any, made: Any) -> None:
        self.api, self.made = api, made

    def free(self) -> None:
        """Give it back."""
        made, self.made = self.made, None
        if made is not None:
            call(self.api, self._free, made)


class _Stream(_Made):
    _free = "cuStreamDestroy"

    @property
    def handle(self) -> int:
        return int(self.made)

    def wait(self) -> None:
        call(self.api, "cuStreamSynchronize", self.made)


class _Event(_Made):
    _free = "cuEventDestroy"

    def record(self, stream: _Stream) -> None:
        call(self.api, "cuEventRecord", self.made, stream.made)

    def wait(self) -> None:
        call(self.api, "cuEventSynchronize", self.made)

    def ms_until(self, later: _Event) -> float:
        return float(call(self.api, "cuEventElapsedTime", self.made, later.made))


class _Memory(_Made):
    _free = "cuMemFree"

    @property
    def address(self) -> int:
        return int(self.made)


class _Locked(_Made):
    _free = "cuMemFreeHost"

    def __init__(self, api: Any, made: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(api, made)
        content: Any = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(int(made))
        self.array: np.ndarray = np.ndarray(shape, dtype, content)


class Driver:
    """The contract of `tlopt.engine.driver`.

    Args:
        api: ``cuda.bindings.driver``.
    """

    name = "cuda-bindings"

    def __init__(self, api: Any) -> None:
        self._api = api
        self._context: Any = None
        self._making = threading.Lock()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current inside the block."""
        call(self._api, "cuCtxPushCurrent", self._primary())
        try:
            yield
        finally:
            call(self._api, "cuCtxPopCurrent")

    def _primary(self) -> Any:
        """Return the primary context, retained for the life of the process as PyTorch and the CUDA runtime do."""
        with self._making:
            if self._context is None:
                call(self._api, "cuInit", 0)
                device = call(self._api, "cuDeviceGet", 0)
                self._context = call(self._api, "cuDevicePrimaryCtxRetain", device)
                atexit.register(self._api.cuDevicePrimaryCtxRelease, device)
            return self._context

    def stream(self) -> _Stream:
        """Make a stream."""
        flags = int(self._api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        return _Stream(self._api, call(self._api, "cuStreamCreate", flags))

    def event(self) -> _Event:
        """Make an event."""
        return _Event(self._api, call(self._api, "cuEventCreate", 0))

    def memory(self, size: int) -> _Memory:
        """Allocate bytes on the GPU."""
        return _Memory(self._api, call(self._api, "cuMemAlloc", size))

    def locked(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Locked:
        """Allocate a page-locked array."""
        made = call(self._api, "cuMemHostAlloc", math.prod(shape) * dtype.itemsize, 0)
        return _Locked(self._api, made, shape, dtype)

    def copy_in(self, target: _Memory, source: np.ndarray, stream: _Stream) -> None:
        """Queue a copy to the GPU."""
        call(self._api, "cuMemcpyHtoDAsync", target.made, source.ctypes.data, source.nbytes, stream.made)

    def copy_out(self, target: np.ndarray, source: _Memory, stream: _Stream) -> None:
        """Queue a copy from the GPU."""
        call(self._api, "cuMemcpyDtoHAsync", target.ctypes.data, source.made, target.nbytes, stream.made)
