"""Runs ONNX artifacts with OpenVINO."""

from __future__ import annotations

from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np
import openvino

from tlopt.artifact import Artifact
from tlopt.backends import _refusals, _trial
from tlopt.backends._batching import fixed_batch, in_parts, of_each
from tlopt.environment import cores
from tlopt.errors import ArtifactError, StageError
from tlopt.outputs import Answer
from tlopt.quantization import saturation

READS = ("onnx",)
# A name is a device, with the latency hint unless it says otherwise.
DEVICES = ("cpu", "gpu", "npu", "cpu-throughput", "gpu-throughput")
COMPARED = True
_WARM = 5  # runs of a profile that are not counted


class Runner:
    """Runs the graph compiled for a device, with one request and one stream per caller.

    OpenVINO lowers fp32 graphs to bf16 by itself where the processor is faster with it. An fp32 or
    int8 artifact is kept at fp32 instead, so that the precision on the card is the one measured.
    """

    def __init__(self, artifact: Artifact, *, device: str = "", threads: int = 0, callers: int = 1) -> None:
        """Read and compile the graph.

        Raises:
            StageError: The device is not there, or cannot take the graph.
        """
        device = device or DEVICES[0]
        self.name = f"openvino:{device}"
        self.callers = callers if device.startswith("cpu") else 1
        # Left alone, the hints may choose fewer streams, and callers wait for one another.
        streams = {"NUM_STREAMS": self.callers} if self.callers > 1 else {}
        if artifact.card.precision == "int8" and device.startswith("cpu"):
            _trial.check(artifact.payload(".onnx"), threads or cores())
        self._compiled = _compiled(artifact, device, threads, **streams)
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.callers):
            self._idle.put(self._compiled.create_infer_request())
        self._output = self._compiled.output(0)
        self._described = artifact.card.outputs
        self._outputs = [_named(self._compiled, output.name, artifact) for output in self._described]
        self._dtype = self._compiled.input(0).get_element_type().to_dtype()
        self._batch = fixed_batch(artifact)
        self.conditions = {
            "threads": _property(self._compiled, "INFERENCE_NUM_THREADS"),
            "callers": self.callers,
            "streams": _property(self._compiled, "NUM_STREAMS"),
            "devices": [str(item) for item in self._compiled.get_property("EXECUTION_DEVICES")],
            "performance_hint": device.partition("-")[2] or "latency",
            "inference_precision": _property(self._compiled, "INFERENCE_PRECISION_HINT"),
            "openvino": openvino.__version__,
        }

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, classes)."""
        if inputs.dtype != self._dtype:
            inputs = inputs.astype(self._dtype)
        return in_parts(
            lambda part: self._run(part, [self._output])[0].astype(np.float32, copy=False), inputs, self._batch
        )

    def outputs(self, inputs: np.ndarray) -> list[Answer]:
        """Return every output of each image."""
        inputs = inputs.astype(self._dtype, copy=False)
        return of_each(lambda part: self._run(part, self._outputs), inputs, self._batch, self._described)

    def _run(self, inputs: np.ndarray, outputs: list[Any]) -> list[np.ndarray]:
        request = self._idle.get()
        try:
            results = request.infer({0: inputs}, share_inputs=True)
            # Copies: the request writes its next results into the same memory.
            return [np.array(results[output]) for output in outputs]
        finally:
            self._idle.put(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._idle, self._output, self._outputs, self._compiled


def _named(compiled: Any, name: str, artifact: Artifact) -> Any:
    """Return the output of a name.

    Raises:
        ArtifactError: There is none.
    """
    try:
        return compiled.output(name)
    except RuntimeError as error:
        raise ArtifactError(f"The graph of {artifact.path} has no output {name!r}.", hint="Make it again.") from error


def profile(
    artifact: Artifact, inputs: np.ndarray, *, device: str = "", threads: int = 0, runs: int = 20
) -> list[tuple[str, str, float]]:
    """Return each layer's name, operator and mean milliseconds, from OpenVINO's own counters.

    The layers are those left after its graph optimizations; what was fused away is left out.
    """
    compiled = _compiled(artifact, device or DEVICES[0], threads, PERF_COUNT=True)
    request = compiled.create_infer_request()
    inputs = inputs.astype(compiled.input(0).get_element_type().to_dtype(), copy=False)
    found: dict[tuple[str, str], list[float]] = {}
    for run in range(_WARM + runs):
        request.infer({0: inputs}, share_inputs=True)
        for layer in request.profiling_info if run >= _WARM else ():
            if layer.status == openvino.ProfilingInfo.Status.EXECUTED:
                found.setdefault((layer.node_name, layer.node_type), []).append(layer.real_time.total_seconds() * 1e3)
    return [(name, op, sum(taken) / runs) for (name, op), taken in found.items()]


def _compiled(artifact: Artifact, device: str, threads: int, **settings: Any) -> Any:
    """Return the graph compiled for a device, and for no other."""
    name, _, hint = device.partition("-")
    core = openvino.Core()
    _require(core, name)
    settings["PERFORMANCE_HINT"] = hint.upper() or "LATENCY"
    if name == "cpu":
        settings["INFERENCE_NUM_THREADS"] = threads or cores()
    if artifact.card.precision in ("fp32", "int8"):
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    payload = artifact.payload(".onnx")
    try:
        compiled = core.compile_model(core.read_model(payload), name.upper(), settings)
    except RuntimeError as error:
        named = _refusals.operators(str(error))
        raise StageError(
            f"OpenVINO cannot compile {payload} for {name}: {_refusals.reason(error)}",
            hint=_refusals.HINT if named else "tlopt doctor lists what runs here.",
        ) from error
    if len(compiled.inputs) != 1 or not compiled.outputs:
        raise ArtifactError(
            f"{artifact.path} does not take images: its graph takes {len(compiled.inputs)} tensors and gives "
            f"{len(compiled.outputs)}.",
            hint="Make the artifact again.",
        )
    used = [str(item) for item in compiled.get_property("EXECUTION_DEVICES")]
    if any(item.partition(".")[0] != name.upper() for item in used):
        raise StageError(f"OpenVINO compiled {payload} for {', '.join(used)} instead of {name.upper()}.")
    return compiled


def _require(core: Any, name: str) -> None:
    """Raise an error if OpenVINO has no such device here."""
    available = [str(item) for item in core.available_devices]
    if not any(item.partition(".")[0] == name.upper() for item in available):
        raise StageError(
            f"OpenVINO {openvino.__version__} finds no {name.upper()} here; it finds {', '.join(available)}.",
            hint="Install the device's driver, or choose --backend openvino:cpu.",
        )


def _property(compiled: Any, key: str) -> Any:
    """Return a property as JSON, or None on a device that lacks it."""
    try:
        value = compiled.get_property(key)
    except RuntimeError:
        return None
    return value if isinstance(value, int | float | str) else getattr(value, "to_string", lambda: str(value))()


def problem(device: str = "") -> str:
    """Return why OpenVINO cannot run on a device here, found by running a graph; empty if it can."""
    name = (device or DEVICES[0]).partition("-")[0]
    try:
        core = openvino.Core()
        _require(core, name)
        image = openvino.opset13.parameter([1, 3, 8, 8], np.float32)
        graph = openvino.Model([openvino.opset13.relu(image)], [image], "test")
        core.compile_model(graph, name.upper())({0: np.ones((1, 3, 8, 8), np.float32)})
    except StageError as error:
        return error.message
    except RuntimeError as error:
        return _refusals.reason(error)
    return ""


def saturates() -> bool:
    """Whether the processor plugin's integer kernels saturate (see `tlopt.quantization.saturation`)."""
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    try:
        compiled = core.compile_model(core.read_model(saturation.test_graph()), "CPU", settings)
    except RuntimeError as error:
        raise StageError(
            f"OpenVINO cannot run int8 here: {_refusals.reason(error)}", hint="tlopt doctor lists what runs here."
        ) from error
    return saturation.saturated(compiled({0: saturation.INPUTS})[0])
