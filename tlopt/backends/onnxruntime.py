"""Runs ONNX artifacts with ONNX Runtime."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from tlopt.artifact import Artifact
from tlopt.backends._batching import fixed_batch, in_parts, of_each
from tlopt.engine.running.staging import SMALL, Staging
from tlopt.environment import cores
from tlopt.errors import ArtifactError, StageError
from tlopt.outputs import Answer
from tlopt.process import temporary
from tlopt.quantization import saturation
from tlopt.sessions import open_session, rounds_to_other_types

READS = ("onnx",)
DEVICES = ("cpu", "cuda", "tensorrt", "openvino")

# Device -> the provider that must hold the graph, and what may serve the nodes that it leaves over.
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    "openvino": ("OpenVINOExecutionProvider", "CPUExecutionProvider"),
}
_PACKAGES = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}
_OTHER_TYPES_OPSET = 19  # from which on QuantizeLinear knows E4M3
_WARM = 5  # runs of a profile that are not counted
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class Runner:
    """Runs the graph in a session with all graph optimizations, one operator at a time.

    On a GPU, inputs are bound: they go through page-locked memory into memory on the device, both kept from run to run.
    """

    def __init__(self, artifact: Artifact, *, device: str = "", threads: int = 0, callers: int = 1) -> None:
        """Open a session.

        Raises:
            ArtifactError: The graph does not take one tensor of images.
            StageError: The session cannot be opened, or not with the provider asked for.
        """
        device = device or DEVICES[0]
        self.name = f"onnxruntime:{device}"
        self.callers = callers if device == "cpu" else 1
        threads = max(1, (threads or cores()) // self.callers)
        integers, other_types = _in_integers(artifact), _rounds_to_other_types(artifact)
        self._session = _session(artifact.payload(".onnx"), device, threads, integers=integers, other_types=other_types)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or not outputs or inputs[0].type not in _DTYPES:
            raise ArtifactError(
                f"{artifact.path} does not take images: its graph takes {[(i.name, i.type) for i in inputs]} and "
                f"gives {[o.name for o in outputs]}.",
                hint="Make the artifact again.",
            )
        entry, result = inputs[0], outputs[0]
        self._input, self._outputs = entry.name, [result.name]
        if artifact.card.task == "any":
            self._outputs = _known([o.name for o in outputs], artifact)
        self._described = artifact.card.outputs
        self._dtype, self._batch = _DTYPES[entry.type], fixed_batch(artifact)
        self._place = "cuda" if device in ("cuda", "tensorrt") else ""
        self._value: Any = None
        self._staging = Staging() if self._place else None
        self._cast = result.type != "tensor(float)"
        self.conditions = {
            "threads": threads,
            "callers": self.callers,
            "providers": self._session.get_providers(),
            "graph_optimization": "all",
            "execution": "sequential",
            "io_binding": bool(self._place),
            **({"page_locked_from_bytes": SMALL} if self._staging and self._staging.works else {}),
            # On a GPU, ONNX Runtime computes what lies between Q/DQ pairs in float.
            **({} if integers and not self._place else {"integer_kernels": False}),
            "onnxruntime": onnxruntime.__version__,
        }

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, classes)."""
        if inputs.dtype != self._dtype:
            inputs = inputs.astype(self._dtype)
        logits = in_parts(lambda part: self._run(part)[0], inputs, self._batch)
        return logits.astype(np.float32) if self._cast else logits

    def outputs(self, inputs: np.ndarray) -> list[Answer]:
        """Return every output of each image."""
        return of_each(self._run, inputs.astype(self._dtype, copy=False), self._batch, self._described)

    def _run(self, inputs: np.ndarray) -> list[np.ndarray]:
        if self._place:
            return self._run_bound(np.ascontiguousarray(inputs))
        found: list[np.ndarray] = self._session.run(self._outputs, {self._input: inputs})
        return found

    def _run_bound(self, inputs: np.ndarray) -> list[np.ndarray]:
        if self._staging is not None:
            inputs = self._staging.put(inputs)
        if self._value is not None and tuple(self._value.shape()) == inputs.shape:
            self._value.update_inplace(inputs)
        else:
            self._value = onnxruntime.OrtValue.ortvalue_from_numpy(inputs, self._place, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, self._value)
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        found: list[np.ndarray] = binding.copy_outputs_to_cpu()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session, self._value
        if self._staging is not None:
            self._staging.close()


def _known(names: list[str], artifact: Artifact) -> list[str]:
    """Return the names of the outputs in the order of the card.

    Raises:
        ArtifactError: The graph lacks one.
    """
    wanted = [output.name for output in artifact.card.outputs]
    if missing := sorted(set(wanted) - set(names)):
        raise ArtifactError(f"The graph of {artifact.path} has no output {missing[0]!r}.", hint="Make it again.")
    return wanted


def profile(
    artifact: Artifact, inputs: np.ndarray, *, device: str = "", threads: int = 0, runs: int = 20
) -> list[tuple[str, str, float]]:
    """Return each layer's name, operator and mean milliseconds, from ONNX Runtime's own profiler.

    The layers are those left after its graph optimizations. The profiler itself slows small layers.

    Raises:
        StageError: The device is a GPU, where the profiler sees only how long each layer takes to queue.
    """
    if (device or DEVICES[0]).partition("-")[0] in ("cuda", "tensorrt"):
        raise StageError(
            f"ONNX Runtime's profiler does not report the time of layers on {device}.",
            hint="Use --backend onnxruntime:cpu, or build an engine and profile that.",
        )
    with temporary.folder("profile") as folder:
        prefix = str(folder / "profile")
        session = _session(
            artifact.payload(".onnx"), device or DEVICES[0], threads or cores(),
            integers=_in_integers(artifact), other_types=_rounds_to_other_types(artifact), profile=prefix,
        )  # fmt: skip
        entry = session.get_inputs()[0]
        feed = {entry.name: inputs.astype(_DTYPES[entry.type], copy=False)}
        for _ in range(_WARM + runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["name"].removesuffix("_kernel_time"), event["args"]["op_name"])
            found.setdefault(key, []).append(event["dur"] / 1e3)
    return [(name, op, float(np.mean(taken[_WARM:]))) for (name, op), taken in found.items()]


def _in_integers(artifact: Artifact) -> bool:
    """Whether Q/DQ pairs are fused into integer kernels; those here are not what a graph for TensorRT was made for."""
    return artifact.card.made_for != "tensorrt"


def _rounds_to_other_types(artifact: Artifact) -> bool:
    """Whether values are rounded to other types than 8- and 16-bit integers; older operators know no others."""
    card = artifact.card
    if card.precision not in ("int8", "fp8") or card.onnx.opset < _OTHER_TYPES_OPSET:
        return False
    return rounds_to_other_types(artifact.payload(".onnx"))


def _session(
    model: Path | bytes, device: str, threads: int, *, integers: bool = True, other_types: bool = False,
    profile: str = "",
) -> Any:  # fmt: skip
    """Open a session whose first provider is the device's own; without `integers`, Q/DQ graphs compute in float."""
    wanted = _PROVIDERS[device]
    where = model if isinstance(model, Path) else "a test graph"
    if device in ("cuda", "tensorrt") and hasattr(onnxruntime, "preload_dlls"):
        _load_cudnn_of_pip()
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
            # CUDA and cuDNN that pip installed are found no other way, unless torch came first.
            onnxruntime.preload_dlls()
    available = onnxruntime.get_available_providers()
    if wanted[0] not in available:
        raise StageError(
            f"ONNX Runtime {onnxruntime.__version__} has no {wanted[0]} here; it has {', '.join(available)}.",
            hint=f"python -m pip install {_PACKAGES[device]}" if device in _PACKAGES else "",
        )
    entries = {} if integers or device != "cpu" else {"session.disable_quant_qdq": "1"}
    providers = [name for name in wanted if name in available]
    try:
        session = open_session(
            model, threads=threads, providers=providers, entries=entries, profile=profile, other_types=other_types
        )
    except Exception as error:
        raise StageError(
            f"ONNX Runtime cannot open {where} on {device}: {str(error).partition(chr(10))[0]}",
            hint="tlopt doctor lists what runs here.",
        ) from error
    if session.get_providers()[0] != wanted[0]:
        raise StageError(
            f"ONNX Runtime opened {where} with {', '.join(session.get_providers())} instead of {wanted[0]}.",
            hint="Its driver or libraries could not be loaded; tlopt doctor says which.",
        )
    return session


def problem(device: str = "") -> str:
    """Return why ONNX Runtime cannot run on a device here, found by running a graph; empty if it can."""
    try:
        session = _session(_test_graph(), device or DEVICES[0], 1)
        session.run(None, {"images": np.ones((1, 3, 8, 8), np.float32)})
    except StageError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - its exception classes share no base but Exception
        return str(error).partition("\n")[0]
    return ""


def saturates() -> bool:
    """Whether the processor provider's integer kernels saturate (see `tlopt.quantization.saturation`)."""
    session = _session(saturation.test_graph(), DEVICES[0], 1)
    return saturation.saturated(session.run(None, {"images": saturation.INPUTS})[0])


def _test_graph() -> bytes:
    shape = [1, 3, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["logits"])],
        "test",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    # The oldest versions that the supported runtimes share.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _load_cudnn_of_pip() -> None:
    """Load the cuDNN that pip installed, if any, before another one comes into the process.

    ONNX Runtime looks for it beside its own package only, and takes the system's where that is another place. torch,
    which is compiled against the one of pip, then refuses every convolution ("cuDNN version incompatibility").
    """
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for library in sorted(Path(folder).glob("cudnn/lib/libcudnn.so.*")):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
                return
