"""One lane of execution on the GPU: an execution context with a stream and buffers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from tlopt.cards.details import Profile
from tlopt.engine.driver import Driver, DriverError
from tlopt.engine.driver import graphs as cuda_graphs
from tlopt.engine.driver.graphs import Graph
from tlopt.engine.running.filling import fill
from tlopt.engine.running.opening import Opened
from tlopt.engine.running.places import Place
from tlopt.engine.running.runtime_cache import RuntimeCache
from tlopt.errors import StageError

_ALIGNMENT = 256  # of an address for setTensorAddress, bytes (NvInferRuntime.h)
_WITHOUT_GRAPHS = "Run without CUDA graphs."


class Lane:
    """Runs one batch at a time, asynchronously: `start` returns at once, `finish` waits.

    The CUDA context must be current wherever a method is called. What the lane holds is allocated
    once, for the largest batch, and freed by `close`, also when opening it fails half-way.

    Args:
        opened: The engine.
        profile: Its batches.
        outputs: Name -> place of each output.
        driver: The CUDA driver.
        graphs: Launch repeated batches of one size as a CUDA graph.
        cache: Keeps what TensorRT for RTX compiles; it outlives the lane.

    Attributes:
        gpu_ms: GPU time of the last finished batch without its copies, ms.
        gpu_with_copies_ms: The same from the first byte in to the last byte out, ms.
    """

    def __init__(
        self,
        opened: Opened,
        profile: Profile,
        outputs: Mapping[str, Place],
        driver: Driver,
        *,
        graphs: bool,
        cache: RuntimeCache | None = None,
    ) -> None:
        self._opened, self._profile, self._driver = opened, profile, driver
        self._batch = self._runs = self._wanted = 0
        self._graph: Graph | None = None
        self._capture: Any = None
        self.gpu_ms = self.gpu_with_copies_ms = float("nan")
        with ExitStack() as held:
            # Last in, first out: whatever fails, also while freeing, the rest is freed.
            self._stream = driver.stream()
            held.callback(self._stream.free)
            self._events = tuple(self._event(held) for _ in range(4))
            kinds = {name: opened.flavour.api.nptype(opened.engine.get_tensor_dtype(name)) for name in outputs}
            self._host_in = self._locked(held, (profile.max_batch, *profile.shape), np.dtype(profile.dtype))
            self._host_out = {
                name: self._locked(held, place.all_of(profile.max_batch), np.dtype(kinds[name]))
                for name, place in outputs.items()
            }
            self._outputs = dict(outputs)
            self._device_in = self._memory(held, self._host_in.nbytes)
            self._device_out = {name: self._memory(held, host.nbytes) for name, host in self._host_out.items()}
            held.callback(self.__dict__.pop, "_context", None)
            self._context = _context(opened, cache, graphs=graphs)
            if graphs and opened.flavour.name == "tensorrt":
                self._capture = cuda_graphs.load()
            held.callback(self._drop_graph)
            held.callback(self._stream.wait)
            self._held = held.pop_all()

    def _event(self, held: ExitStack) -> Any:
        event = self._driver.event()
        held.callback(event.free)
        return event

    def _locked(self, held: ExitStack, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        memory = self._driver.locked(shape, dtype)
        held.callback(memory.free)
        return memory.array

    def _memory(self, held: ExitStack, size: int) -> Any:
        memory = self._driver.memory(size)
        held.callback(memory.free)
        return memory

    @property
    def stream(self) -> int:
        """The CUDA stream's handle."""
        return self._stream.handle

    def start(self, inputs: np.ndarray) -> None:
        """Queue a batch of at most the profile's largest size and return.

        Args:
            inputs: (n, *shape) of the profile's type; n may be below its smallest batch.

        Raises:
            StageError: The batch does not fit, or the library refuses it.
            DriverError: CUDA refuses a call.
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
        fill(self._host_in[: self._wanted], inputs)
        self._host_in[self._wanted : batch] = 0
        self._shape(batch, self._device_in.address, {name: out.address for name, out in self._device_out.items()})
        first, begin, end, last = self._events
        first.record(stream)
        driver.copy_in(self._device_in, self._host_in[:batch], stream)
        begin.record(stream)
        self._execute()
        end.record(stream)
        for name, host in self._host_out.items():
            driver.copy_out(self._outputs[name].some(host, batch), self._device_out[name], stream)
        last.record(stream)

    def finish(self) -> np.ndarray:
        """Wait for the queued batch and return its logits, float32 (n, classes)."""
        return np.asarray(self.finish_all()[0], np.float32)

    def finish_all(self) -> list[np.ndarray]:
        """Wait for the queued batch and return every output, in order, of the engine's own types."""
        first, begin, end, last = self._events
        last.wait()
        self.gpu_ms, self.gpu_with_copies_ms = begin.ms_until(end), first.ms_until(last)
        return [np.array(self._outputs[name].some(host, self._wanted)) for name, host in self._host_out.items()]

    def repeat(self, runs: int) -> None:
        """Queue the batch that lies in the lane's own memory again, back to back and without copies.

        Raises:
            StageError: No batch was started before, or the library refuses it.
            DriverError: CUDA refuses a call.
        """
        if not self._batch:
            raise StageError("There is no batch on the GPU to repeat.", hint="Start one first.")
        _, begin, end, _ = self._events
        begin.record(self._stream)
        for _ in range(runs):
            self._execute()
        end.record(self._stream)

    def repeated_ms(self) -> float:
        """Wait for what `repeat` queued and return the GPU's time for all of it, ms."""
        _, begin, end, _ = self._events
        end.wait()
        return float(begin.ms_until(end))

    def profile(self, profiler: Any) -> None:
        """Let the library tell the time of each layer of every batch from now on; it waits for each batch then."""
        self.settle()
        self._capture = None  # the library times only what it queues itself
        self._context.enqueue_emits_profile = True
        self._context.profiler = profiler

    def run_at(self, batch: int, source: int, target: int) -> None:
        """Queue a batch that lies on the GPU already.

        Args:
            batch: Its size, within the profile.
            source: Address of the inputs, a multiple of 256.
            target: Address for the logits, of the engine's output type; a multiple of 256.

        Raises:
            StageError: An address is none that TensorRT takes, or it refuses the batch.
            DriverError: CUDA refuses a call.
        """
        for what, address in (("inputs", source), ("logits", target)):
            if address % _ALIGNMENT:
                raise StageError(
                    f"The {what} lie at the address {address:#x}; TensorRT takes multiples of {_ALIGNMENT} only.",
                    hint="Copy the tensor first: tensor.clone() begins where it may.",
                )
        self._drop_graph()
        self._batch = 0  # even a batch of the same size lies somewhere else
        try:
            self._shape(batch, source, {self._profile.output: target})
            self._events[1].record(self._stream)
            self._enqueue()
            self._events[2].record(self._stream)
        finally:
            self._batch = 0  # the addresses are not the lane's own: set them again next time

    def settle(self) -> None:
        """Wait for what runs, and forget what was captured: the engine's weights or its profiler change."""
        self._stream.wait()
        self._drop_graph()
        self._runs = 0

    def _shape(self, batch: int, source: int, targets: Mapping[str, int]) -> None:
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
        for name, target in targets.items():
            self._must(context.set_tensor_address(name, target), "the output's address")
        self._batch = batch

    def _execute(self) -> None:
        if self._graph is not None:
            self._graph.launch()
            return
        # The first run of a shape lets the library settle what may not happen during a capture.
        if self._capture is not None and self._runs > 0:
            self._runs = 0  # should the capture fail, the next run is one that settles things again
            try:
                self._graph = Graph(self._capture, self.stream, self._enqueue)
            except DriverError as error:
                raise StageError(f"CUDA captures no graph of the engine: {error}", hint=_WITHOUT_GRAPHS) from error
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
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.free()

    def close(self) -> None:
        """Wait for what runs and free everything; harmless when repeated."""
        self._held.close()


def _context(opened: Opened, cache: RuntimeCache | None, *, graphs: bool) -> Any:
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
        if cache is not None:
            cache.attach(config)
        context = opened.engine.create_execution_context(config)
    if context is None:
        raise StageError(
            f"{opened.flavour.title} cannot make an execution context: {opened.messages.last()}",
            hint="Free GPU memory, or build with a smaller --max-batch.",
        )
    return context
