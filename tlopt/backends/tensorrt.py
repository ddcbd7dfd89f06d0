"""TensorRT engines of either kind on an NVIDIA GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tlopt.artifact import Artifact
from tlopt.backends._batching import of_each
from tlopt.engine import driver as drivers
from tlopt.engine.driver import DriverError
from tlopt.engine.layers import read_types
from tlopt.engine.running import opening, tensors
from tlopt.engine.running.lane import Lane
from tlopt.engine.running.opening import problem as problem
from tlopt.engine.running.places import check_places, places_of
from tlopt.engine.running.profiler import LayerTimes
from tlopt.engine.running.resident import Resident, resident
from tlopt.engine.running.runtime_cache import RuntimeCache
from tlopt.errors import StageError
from tlopt.outputs import Answer

if TYPE_CHECKING:
    import torch

READS = ("tensorrt",)
# A name is a processor and how the engine is launched on it.
DEVICES = ("cuda", "cuda-graphs")
_WARM = 5  # runs of a profile that are not counted


class Runner:
    """Runs a TensorRT engine on the first GPU.

    It works in the device's primary context, which PyTorch uses too. Batches above the engine's
    largest are cut into pieces, which several streams work on at once; smaller ones than its
    smallest are filled up.

    Args:
        artifact: Of kind "tensorrt".
        device: "cuda", or "cuda-graphs" to launch repeated batches of one size as a CUDA graph.
        threads: Not used: the GPU does the work.
        callers: Not used: one thread calls a runner, and `stream` keeps the GPU busy.
        streams: Batches that may be on the GPU at once, each with buffers of its own.
        runtime_cache: File that keeps the kernels which TensorRT for RTX compiles when an engine first runs.

    Attributes:
        lanes: One per stream; they tell the GPU time of their last batch.

    Raises:
        MissingLibraryError: TensorRT, or every package that drives CUDA, is not installed.
        SettingError: There is a `runtime_cache`, and the engine is not one of TensorRT for RTX, or the file holds
            something else.
        ArtifactError: The engine was built for another GPU, version or kind, or its outputs are not those of its card.
        StageError: There is no GPU, or TensorRT cannot open the engine.
    """

    name: str
    callers: int
    conditions: Mapping[str, Any]

    def __init__(
        self,
        artifact: Artifact,
        *,
        device: str = "",
        threads: int = 0,
        callers: int = 1,
        streams: int = 1,
        runtime_cache: Path | None = None,
    ) -> None:
        del threads, callers
        self.callers = 1
        device = device or DEVICES[0]
        captured = device == "cuda-graphs"
        self.name = f"tensorrt:{device}"
        self.lanes: list[Lane] = []
        flavour, _ = opening.check(artifact)
        cache = RuntimeCache(runtime_cache, flavour) if runtime_cache else None
        self._driver = drivers.load()
        self._artifact = artifact
        self._profile = artifact.card.engine.profile
        self._refit = artifact.card.engine.options.refit
        self._classes = len(artifact.card.classes)
        places = places_of(artifact)
        self._opening = True
        with self._current(), ExitStack() as held:
            self._opened = opening.open_engine(artifact)
            held.callback(self.__dict__.pop, "_opened", None)
            check_places(artifact, self._opened.engine, places)
            if cache is not None:
                held.callback(cache.save)
            for _ in range(streams):
                lane = Lane(self._opened, self._profile, places, self._driver, graphs=captured, cache=cache)
                held.callback(lane.close)
                self.lanes.append(lane)
            self._held = held.pop_all()
        self._opening = False
        self.conditions = {
            "library": self._opened.flavour.title,
            "gpu": self._opened.gpu.name,
            "driver_cuda": self._opened.gpu.driver_cuda,
            "streams": streams,
            "cuda_graphs": captured,
            "driver": self._driver.name,
            "opt_batch": self._profile.opt_batch,
        }

    def gpu_times_ms(self) -> tuple[float, float]:
        """Return the time of the first stream's last batch on the GPU, milliseconds: alone, and with the copies."""
        self._require_open()
        return self.lanes[0].gpu_ms, self.lanes[0].gpu_with_copies_ms

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Make the device's context current in this thread, and what was current again after."""
        try:
            with self._driver.current():
                yield
        except DriverError as error:
            does, hint = "run", "tlopt doctor tells whether the GPU works at all."
            if self._opening:
                does, hint = "open", "Free GPU memory, or build with a smaller --max-batch."
            raise StageError(f"CUDA cannot {does} {self._artifact.path}: {error}", hint=hint) from error

    def _require_open(self) -> None:
        """Refuse what comes after `close`.

        Raises:
            StageError: The runner is closed.
        """
        if not self.lanes:
            raise StageError(f"The runner of {self._artifact.path} is closed.", hint="Open it again.")

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, classes), of a batch as `Preprocess.normalize` gives it."""
        self._require_open()
        largest = self._profile.max_batch
        pieces = (inputs[first : first + largest] for first in range(0, len(inputs), largest))
        found = list(self.stream(pieces))
        return np.concatenate(found) if found else np.zeros((0, self._classes), np.float32)

    def outputs(self, inputs: np.ndarray) -> list[Answer]:
        """Return every output of each image; see `__call__`."""
        self._require_open()
        largest, described = self._profile.max_batch, self._artifact.card.outputs
        found: list[Answer] = []
        for first in range(0, len(inputs), largest):
            found += of_each(self._every, np.ascontiguousarray(inputs[first : first + largest]), 0, described)
        return found

    def _every(self, batch: np.ndarray) -> list[np.ndarray]:
        with self._current():
            self.lanes[0].start(batch)
            return self.lanes[0].finish_all()

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the logits of each batch in order, with one batch per stream on the GPU at a time.

        Args:
            batches: Each (n, *shape), n at most the engine's largest batch.

        Raises:
            StageError: A batch does not fit, the engine or CUDA fails, or the runner is closed.
        """
        self._require_open()
        free = deque(self.lanes)
        busy: deque[Lane] = deque()
        try:
            for batch in batches:
                if not free:
                    yield self._finish(busy, free)
                self._require_open()
                with self._current():
                    free[0].start(batch)
                busy.append(free.popleft())
            while busy:
                yield self._finish(busy, free)
        finally:
            # Whoever stops half-way must not leave copies running into buffers that are used next. A closed runner has
            # waited for all of them.
            while busy and self.lanes:
                self._finish(busy, free)

    def _finish(self, busy: deque[Lane], free: deque[Lane]) -> np.ndarray:
        self._require_open()
        lane = busy.popleft()
        free.append(lane)
        with self._current():
            return lane.finish()

    def on_device(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch that lies on the GPU, without a copy, in PyTorch's order of work.

        Args:
            inputs: A contiguous CUDA tensor (n, *shape) of the engine's input type, n within its
                batches.

        Returns:
            A new CUDA tensor (n, classes). It may be used at once in PyTorch's current stream.

        Raises:
            StageError: The tensor does not fit, or does not begin at a multiple of 256 bytes.
        """
        self._require_open()
        profile, lane = self._profile, self.lanes[0]
        tensors.refuse(inputs, profile)
        kind = self._opened.flavour.api.nptype(self._opened.engine.get_tensor_dtype(profile.output))
        with tensors.answered(inputs, self._classes, kind, lane.stream) as logits, self._current():
            lane.run_at(len(inputs), inputs.data_ptr(), logits.data_ptr())
        return logits

    def layer_times(self, inputs: np.ndarray, *, warm: int, runs: int) -> dict[str, float]:
        """Return each layer's mean milliseconds in the order in which they run, by the library's own profiler.

        The runner stays slower afterwards: the profiler remains attached.

        Args:
            inputs: (n, *shape), n at most the engine's largest batch.
            warm: Runs that are not counted.
            runs: Runs to average over.
        """
        self._require_open()
        for _ in range(warm):
            self(inputs)
        times, lane = LayerTimes(self._opened.flavour.api), self.lanes[0]
        self._times = times  # an execution context does not keep its profiler alive
        with self._current():
            lane.profile(times.profiler)
            for _ in range(runs):
                lane.start(inputs)
                lane.finish()
        return {name: taken / runs for name, taken in times.taken.items()}

    def resident(self, inputs: np.ndarray, *, runs: int) -> Resident:
        """Measure the engine on a batch that stays on the GPU, as trtexec does with ``--noDataTransfers``.

        Args:
            inputs: (n, *shape), n at most the engine's largest batch.
            runs: Runs of each stream, queued back to back.
        """
        self._require_open()
        with self._current():
            return resident(self.lanes, inputs, runs=runs)

    def refit(self, onnx: Path) -> None:
        """Replace the weights by those of an ONNX file of the same architecture.

        It waits for the batches under way. Graphs are captured anew afterwards.

        Raises:
            StageError: The engine was not built with ``refit``, or the weights do not fit.
        """
        self._require_open()
        if not self._refit:
            raise StageError(
                f"The weights of the engine {self.name} cannot be replaced.", hint="Build the engine with --refit."
            )
        with self._current():
            for lane in self.lanes:
                lane.settle()
            opening.refit(self._opened, onnx)

    def close(self) -> None:
        """Wait for what runs and free what is held on the GPU; harmless when repeated."""
        lanes, self.lanes = self.lanes, []
        if lanes:
            with self._current():
                self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def profile(
    artifact: Artifact, inputs: np.ndarray, *, device: str = "", threads: int = 0, runs: int = 20
) -> list[tuple[str, str, float]]:
    """Return each layer's name, type and mean milliseconds, from TensorRT's own profiler.

    CUDA graphs are not used: the library times layers that it enqueues itself.

    Raises:
        StageError: The batch is above the engine's largest.
    """
    del device, threads
    types = read_types(artifact.path / "layers.json")
    with Runner(artifact) as runner:
        taken = runner.layer_times(inputs, warm=_WARM, runs=runs)
    return [(name, types.get(name) or "?", ms) for name, ms in taken.items()]
