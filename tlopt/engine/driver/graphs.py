"""CUDA graphs, through cuda-bindings: pycuda has no calls for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tlopt.engine import driver
from tlopt.engine.driver import DriverError
from tlopt.engine.driver.bindings import call


def load() -> Any:
    """Return ``cuda.bindings.driver``.

    Raises:
        MissingLibraryError: cuda-bindings is not installed, or does not load.
    """
    return driver.require("cuda.bindings.driver", "cuda-bindings", "python -m pip install --upgrade cuda-bindings")


class Graph:
    """What one call queues on a stream, captured once and launched as a whole.

    Args:
        api: ``cuda.bindings.driver``.
        stream: Handle of the stream.
        enqueue: The call. What it raises passes through.

    Raises:
        DriverError: CUDA does not capture it.
    """

    def __init__(self, api: Any, stream: int, enqueue: Callable[[], None]) -> None:
        self._api, self._stream = api, api.CUstream(stream)
        mode = api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        call(api, "cuStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        except BaseException:
            self._abandon()
            raise
        graph = call(api, "cuStreamEndCapture", self._stream)
        try:
            self._executable = call(api, "cuGraphInstantiate", graph, 0)
        finally:
            call(api, "cuGraphDestroy", graph)

    def _abandon(self) -> None:
        """End the capture: the stream is of no use until it has ended, whatever happened in it."""
        try:
            graph = call(self._api, "cuStreamEndCapture", self._stream)
        except DriverError:
            return  # what happened had made the capture invalid, so there is no graph
        call(self._api, "cuGraphDestroy", graph)

    def launch(self) -> None:
        """Queue the graph on its stream."""
        call(self._api, "cuGraphLaunch", self._executable, self._stream)

    def free(self) -> None:
        """Give it back."""
        call(self._api, "cuGraphExecDestroy", self._executable)
