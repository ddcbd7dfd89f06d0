"""The driver through pycuda."""

from __future__ import annotations

import atexit
import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tlopt.engine import driver
from tlopt.engine.driver import DriverError

_MEND = "python -m pip install --force-reinstall --no-cache-dir pycuda compiles it against the CUDA here."
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, cuda.h


def load() -> Driver:
    """Return the driver.

    Raises:
        MissingLibraryError: pycuda is not installed, or was compiled against another CUDA.
    """
    return Driver(driver.require("pycuda.driver", "pycuda", _MEND))


class _Made:
    """Something that pycuda made, freed by `free`.

    pycuda frees streams and events when Python forgets them, which must happen while the context is current. A kept
    traceback keeps the variables of its functions alive, so only this object may hold what pycuda made.
    """

    def __init__(self, api: Any, make: Callable[..., Any], *arguments: Any) -> None:
        self.api = api
        self.made: Any = _call(api, make, *arguments)

    def free(self) -> None:
        """Give it back."""
        self.made = None


class _Stream(_Made):
    @property
    def handle(self) -> int:
        return int(self.made.handle)

    def wait(self) -> None:
        _call(self.api, self.made.synchronize)


class _Event(_Made):
    def record(self, stream: _Stream) -> None:
        _call(self.api, self.made.record, stream.made)

    def wait(self) -> None:
        _call(self.api, self.made.synchronize)

    def ms_until(self, later: _Event) -> float:
        return float(_call(self.api, self.made.time_till, later.made))


class _Memory(_Made):
    @property
    def address(self) -> int:
        return int(self.made)

    def free(self) -> None:
        if self.made is not None:
            try:
                _call(self.api, self.made.free)
            finally:
                self.made = None


class _Locked(_Memory):
    @property
    def array(self) -> np.ndarray:
        found: np.ndarray = self.made
        return found

    def free(self) -> None:
        if self.made is not None:
            try:
                _call(self.api, self.made.base.free)
            finally:
                self.made = None


class Driver:
    """The contract of `tlopt.engine.driver`.

    Args:
        api: ``pycuda.driver``.
    """

    name = "pycuda"

    def __init__(self, api: Any) -> None:
        self._api = api
        self._context: Any = None
        self._making = threading.Lock()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current inside the block."""
        _call(self._api, self._primary().push)
        try:
            yield
        finally:
            _call(self._api, self._api.Context.pop)

    def _primary(self) -> Any:
        """Return the primary context, retained for the life of the process as PyTorch and the CUDA runtime do.

        pycuda (2026.1) leaves a released primary context on the thread's stack of contexts, where the next user of the
        GPU would find it.
        """
        with self._making:
            if self._context is None:
                _call(self._api, self._api.init)
                self._context = _call(self._api, lambda: self._api.Device(0).retain_primary_context())
                atexit.register(_release, self._context)
            return self._context

    def stream(self) -> _Stream:
        """Make a stream."""
        return _Stream(self._api, self._api.Stream, _NON_BLOCKING)

    def event(self) -> _Event:
        """Make an event."""
        return _Event(self._api, self._api.Event)

    def memory(self, size: int) -> _Memory:
        """Allocate bytes on the GPU."""
        return _Memory(self._api, self._api.mem_alloc, size)

    def locked(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Locked:
        """Allocate a page-locked array."""
        return _Locked(self._api, self._api.pagelocked_empty, shape, dtype)

    def copy_in(self, target: _Memory, source: np.ndarray, stream: _Stream) -> None:
        """Queue a copy to the GPU."""
        _call(self._api, self._api.memcpy_htod_async, target.made, source, stream.made)

    def copy_out(self, target: np.ndarray, source: _Memory, stream: _Stream) -> None:
        """Queue a copy from the GPU."""
        _call(self._api, self._api.memcpy_dtoh_async, target, source.made, stream.made)


def _release(context: Any) -> None:
    """Give the primary context back when the process ends.

    Left to its destructor, pycuda (2026.1) detaches it like an ordinary context, which CUDA refuses. It detaches it in
    the thread that made it, or where it is current, and takes for granted that then it is no longer current.
    """
    context.push()
    context.detach()
    ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _call(api: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call pycuda.

    Raises:
        DriverError: CUDA refuses.
    """
    try:
        return function(*arguments)
    except api.Error as error:
        del function, arguments  # the traceback keeps this frame, and it must not keep what pycuda made
        raise DriverError(str(error)) from error
