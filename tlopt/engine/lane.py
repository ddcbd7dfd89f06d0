"""One lane of execution on the GPU: an execution context with a stream and buffers of its own."""

from __future__ import annotations

from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy as np

from tlopt import registry
from tlopt.cards.details import Profile
from tlopt.engine.opening import Opened
from tlopt.errors import StageError


class Lane:
    """Runs one batch at a time, asynchronously: `start` returns at once, `finish` waits.

    The CUDA context must be current wherever a method is called. What the lane holds is allocated
    once, for the largest batch, and freed by `close`, also when opening it fails half-way.

    Args:
        opened: The engine.
        profile: Its batches.
        classes: Number of logits.
        driver: `pycuda.driver`.
        graphs: Launch repeated batches of one size as a CUDA graph.
    """

    def __init__(self, opened: Opened, profile: Profile, classes: int, driver: Any, *, graphs: bool) -> None:
        self._opened, self._profile, self._driver = opened, profile, driver
        self._batch = self._runs = self._wanted = 0
        self._graph: _Graph | None = None
        self._capture: ModuleType | None = None
        with ExitStack() as held:
            # Last in, first out: whatever fails, also while freeing, the rest is freed.
            held.callback(self.__dict__.pop, "_stream", None)
            held.callback(self.__dict__.pop, "_events", None)
            self._stream = driver.Stream()
            self._events = tuple(driver.Event() for _ in range(4))
            kind = np.dtype(opened.flavour.api.nptype(opened.engine.get_tensor_dtype(profile.output)))
            self._host_in = self._locked(held, (profile.max_batch, *profile.shape), np.dtype(profile.dtype))
            self._host_out = self._locked(held, (profile.max_batch, classes), kind)
            self._device_in = self._device(held, self._host_in.nbytes)
            self._device_out = self._device(held, self._host_out.nbytes)
            held.callback(self.__dict__.pop, "_context", None)
            self._context = _context(opened, graphs=graphs)
            if graphs and opened.flavour.name == "tensorrt":
                self._capture = registry.require("cuda.bindings.driver")
            held.callback(self._drop_graph)
            held.callback(self._stream.synchronize)
            self._held = held.pop_all()

    def _locked(self, held: ExitStack, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Return a page-locked array: only from one can the GPU copy while the processor goes on."""
        array: np.ndarray = self._driver.pagelocked_empty(shape, dtype)
        owner: Any = array.base
        held.callback(owner.free)
        return array

    def _device(self, held: ExitStack, size: int) -> Any:
        memory = self._driver.mem_alloc(size)
        held.callback(memory.free)
        return memory

    @property
    def stream(self) -> int:
        """The CUDA stream's handle."""
        return int(self._stream.handle)

    @property
    def gpu_ms(self) -> float:
        """GPU time of the last finished batch without its copies, ms."""
        return float(self._events[1].time_till(self._events[2]))

    @property
    def gpu_with_copies_ms(self) -> float:
        """GPU time of the last finished batch from the first byte in to the last byte out, ms."""
        return float(self._events[0].time_till(self._events[3]))

    def start(self, inputs: np.ndarray) -> None:
        """Queue a batch of at most the profile's largest size and return.

        Args:
            inputs: (n, *shape) of the profile's type; n may be below its smallest batch.

        Raises:
            StageError: The batch does not fit, or the library refuses it.
        """
        profile = self._profile
        if inputs.shape[1:] != profile.shape or inputs.dtype != profile.dtype or len(inputs) > profile.max_batch:
            raise StageError(
                f"The engine takes up to {profile.max_batch} inputs of {profile.shape} and {profile.dtype}; got "
                f"{inputs.shape} of {inputs.dtype}."
            )
        driver, stream = self._driver, self._stream
        self._wanted = len(inputs)
        batch = max(self._wanted, self._profile.min_batch)
        np.copyto(self._host_in[: self._wanted], inputs)
        self._host_in[self._wanted : batch] = 0
        self._shape(batch, int(self._device_in), int(self._device_out))
        first, begin, end, last = self._events
        first.record(stream)
        driver.memcpy_htod_async(self._device_in, self._host_in[:batch], stream)
        begin.record(stream)
        self._execute()
        end.record(stream)
        driver.memcpy_dtoh_async(self._host_out[:batch], self._device_out, stream)
        last.record(stream)

    def finish(self) -> np.ndarray:
        """Wait for the queued batch and return its logits, float32 (n, classes)."""
        self._events[3].synchronize()
        return np.array(self._host_out[: self._wanted], dtype=np.float32)

    def profile(self, profiler: Any) -> None:
        """Let the library tell the time of each layer of every batch from now on; it waits for each batch then."""
        self._drop_graph()
        self._context.enqueue_emits_profile = True
        self._context.profiler = profiler

    def run_at(self, batch: int, source: int, target: int) -> None:
        """Queue a batch that lies on the GPU already.

        Args:
            batch: Its size, within the profile.
            source: Address of the inputs.
            target: Address for the logits, of the engine's output type.
        """
        self._drop_graph()
        self._batch = 0  # even a batch of the same size lies somewhere else
        self._shape(batch, source, target)
        self._events[1].record(self._stream)
        self._execute()
        self._events[2].record(self._stream)
        self._batch = 0  # the addresses are not the lane's own: set them again next time

    def _shape(self, batch: int, source: int, target: int) -> None:
        """Tell the context the batch and the addresses, if they changed.

        A captured graph is good only for the state of the context that it was captured in
        (TensorRT documentation, "CUDA Graphs"), so it is dropped.
        """
        if batch == self._batch:
            return
        self._drop_graph()
        self._batch = self._runs = 0
        profile, context = self._profile, self._context
        self._must(context.set_input_shape(profile.input, (batch, *profile.shape)), f"the batch {batch}")
        self._must(context.set_tensor_address(profile.input, source), "the input's address")
        self._must(context.set_tensor_address(profile.output, target), "the output's address")
        self._batch = batch

    def _execute(self) -> None:
        if self._graph is not None:
            self._graph.launch()
            return
        # The first run of a shape lets the library settle what may not happen during a capture.
        if self._capture is not None and self._runs > 0:
            self._graph = _Graph(self._capture, self.stream, self._enqueue)
            self._graph.launch()
            return
        self._enqueue()
        self._runs += 1

    def _enqueue(self) -> None:
        self._must(self._context.execute_async_v3(self.stream), "to run")

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise StageError(f"{self._opened.flavour.title} refuses {what}: {self._opened.messages.last()}")

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def close(self) -> None:
        """Wait for what runs and free everything; harmless when repeated."""
        self._held.close()


def _context(opened: Opened, *, graphs: bool) -> Any:
    """Return an execution context, set up for steady speed where the library compiles at run time."""
    if opened.flavour.name != "rtx":
        context = opened.engine.create_execution_context()
    else:
        api, config = opened.flavour.api, opened.engine.create_runtime_config()
        if hasattr(api, "DynamicShapesKernelSpecializationStrategy"):
            # The default answers with slower kernels until better ones are compiled in the background.
            config.dynamic_shapes_kernel_specialization_strategy = api.DynamicShapesKernelSpecializationStrategy.EAGER
        if graphs:
            config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        context = opened.engine.create_execution_context(config)
    if context is None:
        raise StageError(
            f"{opened.flavour.title} cannot make an execution context: {opened.messages.last()}",
            hint="Free GPU memory, or build with a smaller --max-batch.",
        )
    return context


class _Graph:
    """What one call enqueues on a stream, captured once and launched as a whole.

    Args:
        driver: `cuda.bindings.driver`: pycuda has no calls for graphs.
        stream: Handle of the stream.
        enqueue: The call.
    """

    def __init__(self, driver: Any, stream: int, enqueue: Any) -> None:
        self._driver, self._stream = driver, driver.CUstream(stream)
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        finally:
            # The stream is of no use until its capture has ended, whatever happened in it.
            graph = self._call("cuStreamEndCapture", self._stream)
        try:
            self._executable = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Queue the graph on its stream."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph."""
        self._call("cuGraphExecDestroy", self._executable)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call the driver; its functions return their status first, then what they made."""
        status, *made = getattr(self._driver, function)(*arguments)
        if int(status) != 0:
            raise StageError(f"CUDA refuses {function}: {status}.", hint="Run without CUDA graphs.")
        return made[0] if made else None
