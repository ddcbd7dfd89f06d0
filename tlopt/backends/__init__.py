"""What runs an artifact: one file per runtime.

A backend module defines

    READS: tuple[str, ...]          the artifact kinds it runs
    DEVICES: tuple[str, ...]        the devices it knows by name, its default first
    class Runner                    see the protocols below
    def problem(device) -> str      why it cannot run here, found by trying; empty if it can
    def saturates() -> bool         whether its integer kernels saturate on this processor; of runtimes that int8
                                    graphs are made for
    def profile(artifact, inputs, *, device, threads, runs) -> list[tuple[str, str, float]]
                                    name, operator and mean milliseconds of each layer; of runtimes with a profiler

    COMPARED: bool                  whether its answers to float graphs are compared with those of ONNX Runtime

The last three are optional: `saturates`, `profiler` and `open_runner` below ask for them. A runner of networks that are
no classifiers has `outputs` besides: see `ManyOutputs`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from tlopt import registry
from tlopt.artifact import Artifact
from tlopt.backends import _agreement
from tlopt.backends._batching import fixed_batch as fixed_batch
from tlopt.environment import cores
from tlopt.errors import MissingLibraryError, PluginError, StageError, suggestion
from tlopt.outputs import Answer

log = logging.getLogger(__name__)

DEFAULT = {"torch": "torch", "onnx": "onnxruntime", "tensorrt": "tensorrt"}


class Runner(Protocol):
    """Runs an artifact's payload; a context manager that frees what it holds.

    Attributes:
        name: Backend and device, "onnxruntime:cpu".
        callers: Threads that may call it at once: as many as were asked for, or 1.
        conditions: What decides its speed: threads, providers, versions.
    """

    name: str
    callers: int
    conditions: Mapping[str, Any]

    def __init__(self, artifact: Artifact, *, device: str = "", threads: int = 0, callers: int = 1) -> None: ...

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, classes), of a batch as `Preprocess.normalize` gives it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class GpuClock(Protocol):
    """What a runner has besides if the GPU itself says how long it computed."""

    def gpu_times_ms(self) -> tuple[float, float]:
        """Return the time of the last run on the GPU, milliseconds: computing alone, and with the copies."""


@runtime_checkable
class ManyOutputs(Protocol):
    """What a runner has besides if it runs networks with other outputs than a row of numbers for each image."""

    def outputs(self, inputs: np.ndarray) -> list[Answer]:
        """Return every output of each image of a batch, in the order of the card."""


def outputs_of(runner: Runner) -> Callable[[np.ndarray], list[Answer]]:
    """Return the function that gives every output of each image.

    Raises:
        StageError: The backend runs classifiers only.
    """
    many: object = runner
    if not isinstance(many, ManyOutputs):
        raise StageError(f"{runner.name} runs classifiers only.", hint="Choose another backend: --backend onnxruntime.")
    return many.outputs


def call_of(runner: Runner, artifact: Artifact) -> Callable[[np.ndarray], Any]:
    """Return what one run of an artifact is: logits of a classifier, every output of another network."""
    return runner if artifact.card.task == "classify" else outputs_of(runner)


@contextmanager
def open_call(artifact: Artifact, backend: str = "", *, threads: int = 0) -> Iterator[Callable[[np.ndarray], Any]]:
    """Open an artifact; the block gets what `call_of` returns, and `open_runner` says what can go wrong."""
    with open_runner(artifact, backend, threads=threads) as runner:
        yield call_of(runner, artifact)


def open_runner(
    artifact: Artifact, backend: str = "", *, threads: int = 0, callers: int = 1, compared: bool = True
) -> Runner:
    """Open an artifact on a backend.

    The first time, the answers of OpenVINO to a float graph are compared with those of ONNX Runtime.

    Args:
        artifact: What to run.
        backend: ``name`` or ``name:device`` ("onnxruntime:cuda"); empty for the kind's own.
        threads: Processor threads of all runs together; 0 for one per core.
        callers: Threads that would like to call it at once, each with its share of `threads`. The
            runner's own `callers` says how many may: on a GPU one.
        compared: Whether answers are compared; without, memory and time are those of the backend alone.

    Raises:
        PluginError: The backend or its device is unknown.
        ArtifactError: The backend does not run this kind.
        MissingLibraryError: Its library is not installed.
        StageError: The runtime cannot open the payload, or not on that device, or misreads the graph.
    """
    name, _, device = (backend or DEFAULT[artifact.card.kind]).partition(":")
    module = load(name, device)
    artifact.expect(*module.READS)
    if saturates_here(artifact, name, device):
        # A stage opens what it is making in a hidden folder, whose name tells nobody anything.
        which = "" if artifact.path.name.startswith(".") else f" in {artifact.path}"
        mend = "Train it again with tlopt qat" if artifact.card.onnx.qat else "Quantize its source again with"
        log.warning(
            "The int8 graph%s gives wrong answers on this processor. Its weights use the whole int8 range, and "
            "the integer kernels of %s saturate. %s --reduce-range on.", which, name, mend,
        )  # fmt: skip
    if threads > cores() and "cpu" in module.DEVICES and device in ("", *_ON_CORES):
        _warn_of_threads(threads, cores())
    runner: Runner = module.Runner(artifact, device=device, threads=threads, callers=callers)
    if compared and getattr(module, "COMPARED", False):
        try:
            _agreement.check(artifact, call_of(runner, artifact), runner.name, threads)
        except BaseException:
            runner.__exit__(None, None, None)
            raise
    return runner


_ON_CORES = ("cpu", "cpu-throughput", "openvino")  # devices that run on the processor's cores


@functools.cache
def _warn_of_threads(threads: int, own: int) -> None:
    """Warn, once, of threads that cannot all run."""
    log.warning(
        "%d threads wait for each other on %s. --threads 0 takes one per core.",
        threads,
        "one core" if own == 1 else f"{own} cores",
    )


def saturates_here(artifact: Artifact, name: str, device: str = "") -> bool:
    """Whether an int8 graph that tlopt made asks more of a backend's kernels on this processor than they can add up.

    Raises:
        MissingLibraryError: The backend's library is not installed.
        StageError: It cannot run here.
    """
    quantized = artifact.card.quantized
    if artifact.card.precision != "int8" or quantized is None or quantized.reduce_range:
        return False
    in_float = name == "onnxruntime" and quantized.runtime == "tensorrt"
    return device in ("", *_ON_CORES) and not in_float and saturates(name)


@functools.cache
def saturates(name: str) -> bool:
    """Whether a backend's integer kernels saturate on this processor, found by running one.

    Raises:
        MissingLibraryError: Its library is not installed.
        StageError: It cannot run here.
    """
    # Those that say nothing of it run on GPUs, which add up products of 8-bit integers in 32 bits.
    module = load(name)
    return hasattr(module, "saturates") and bool(module.saturates())


def profiler(name: str, device: str = "") -> Callable[..., list[tuple[str, str, float]]]:
    """Return the function that times the layers of an artifact on a backend.

    Raises:
        PluginError: The backend or its device is unknown, or it has no profiler.
        MissingLibraryError: Its library is not installed.
    """
    module = load(name, device)
    if not hasattr(module, "profile"):
        raise PluginError(f"The backend {name} has no profiler.", hint="Choose another with --backend.")
    found: Callable[..., list[tuple[str, str, float]]] = module.profile
    return found


def reduced_range(name: str, choice: str) -> bool:
    """Whether weights made for a backend have to keep to half the int8 range.

    Args:
        name: Of the backend.
        choice: "on", "off", or "auto": if its integer kernels saturate on this processor.

    Raises:
        StageError: The backend cannot run here, so that "auto" finds nothing out.
    """
    if choice != "auto" or name == "tensorrt":
        return choice == "on"
    try:
        found = saturates(name)
    except MissingLibraryError:
        log.warning(
            "%s is not installed, so saturation was not tested. Weights use the whole int8 range; see --reduce-range.",
            name,
        )
        return False
    if found:
        log.info("integer kernels of %s saturate on this processor: weights use half the int8 range", name)
    return found


def load(name: str, device: str = "") -> ModuleType:
    """Import a backend and check the name of the device.

    Raises:
        PluginError: The backend or its device is unknown.
        MissingLibraryError: Its library is not installed.
    """
    module = registry.load("backends", name)
    if device and device not in module.DEVICES:
        raise PluginError(f"The backend {name} has no device {device!r}.", hint=suggestion(device, module.DEVICES))
    return module


def expect_known(*spelled: str) -> None:
    """Refuse a backend that nobody knows; an empty name stands for the usual one.

    Raises:
        PluginError: The backend or its device is unknown.
        MissingLibraryError: Its library is not installed.
    """
    for one in filter(None, spelled):
        name, _, device = one.partition(":")
        load(name, device)


def expect_here(spelled: str) -> None:
    """Refuse a backend that somebody named and that cannot run here.

    Args:
        spelled: ``name`` or ``name:device``.

    Raises:
        PluginError: The backend or its device is unknown.
        MissingLibraryError: Its library is not installed.
        StageError: It cannot run here.
    """
    name, _, device = spelled.partition(":")
    if reason := load(name, device).problem(device):
        raise StageError(f"{spelled} cannot run here: {reason}", hint="tlopt doctor lists what runs here.")
