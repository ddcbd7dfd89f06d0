"""What runs an artifact: one file per runtime.

A backend module defines

    READS: tuple[str, ...]          the artifact kinds it runs
    DEVICES: tuple[str, ...]        the devices it knows by name, its default first
    class Runner                    see the protocol below
    def problem(device) -> str      why it cannot run here, found by trying; empty if it can
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType, TracebackType
from typing import Any, Protocol, Self

import numpy as np

from tlopt import registry
from tlopt.artifact import Artifact
from tlopt.errors import PluginError, suggestion

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
    return runner


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
