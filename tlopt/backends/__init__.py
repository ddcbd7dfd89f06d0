"""What runs an artifact: one file per runtime.

A backend module defines

    READS: tuple[str, ...]          the artifact kinds it runs
    DEVICES: tuple[str, ...]        the devices it knows by name, its default first
    class Runner                    see the protocol below
    def problem(device) -> str      why it cannot run here, found by trying; empty if it can
    def saturates() -> bool         whether its integer kernels saturate on this processor; of runtimes that int8
                                    graphs are made for
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import ModuleType, TracebackType
from typing import Any, Protocol, Self

import numpy as np

from tlopt import registry
from tlopt.artifact import Artifact
from tlopt.errors import MissingLibraryError, PluginError, suggestion

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


def open_runner(artifact: Artifact, backend: str = "", *, threads: int = 0, callers: int = 1) -> Runner:
    """Open an artifact on a backend.

    Args:
        artifact: What to run.
        backend: ``name`` or ``name:device`` ("onnxruntime:cuda"); empty for the kind's own.
        threads: Processor threads of all runs together; 0 for one per core.
        callers: Threads that would like to call it at once, each with its share of `threads`. The
            runner's own `callers` says how many may: on a GPU one.

    Raises:
        PluginError: The backend or its device is unknown.
        ArtifactError: The backend does not run this kind.
        MissingLibraryError: Its library is not installed.
        StageError: The runtime cannot open the payload, or not on that device.
    """
    name, _, device = (backend or DEFAULT[artifact.card.kind]).partition(":")
    module = load(name, device)
    artifact.expect(*module.READS)
    runner: Runner = module.Runner(artifact, device=device, threads=threads, callers=callers)
    if artifact.card.details.get("reduce_range") is False and device.partition("-")[0] in ("", "cpu"):
        _warn_of_saturation(artifact, name, module)
    return runner


def _warn_of_saturation(artifact: Artifact, name: str, module: ModuleType) -> None:
    """Say so if an int8 graph's weights take more of the range than the kernels that run it here can add up."""
    int8 = artifact.card.precision == "int8" and artifact.card.details.get("runtime") != "tensorrt"
    if int8 and hasattr(module, "saturates") and module.saturates():
        log.warning(
            "%s answers wrongly here: its weights take the whole int8 range, and the integer kernels of %s saturate on "
            "this processor. Quantize with --reduce-range on.", artifact.path, name,
        )  # fmt: skip


def reduced_range(name: str, choice: str) -> bool:
    """Whether weights made for a backend have to keep to half the int8 range.

    Args:
        name: Of the backend.
        choice: "on", "off", or "auto": if its integer kernels saturate on this processor.
    """
    if choice != "auto" or name == "tensorrt":  # a GPU adds up products of 8-bit integers in 32 bits
        return choice == "on"
    try:
        found = bool(load(name).saturates())
    except MissingLibraryError:
        log.info("%s is not installed here: weights take the whole int8 range", name)
        return False
    if found:
        log.info("integer kernels of %s saturate on this processor: weights take half the int8 range", name)
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
