"""The network, run by TensorRT on an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda

_LOOK = "Look with nvidia-smi whether the GPU works and has memory left"
_TITLES = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}


class EngineError(RuntimeError):
    """The engine cannot be opened or run here; `hint` is what to do next."""

    def __init__(self, problem: str, hint: str = _LOOK) -> None:
        super().__init__(problem)
        self.hint = hint


class Network:
    """A batch in, logits out; callers take turns. What it holds on the GPU is given back when Python forgets it."""

    def __init__(self, file: Path, *, threads: int = 0, settings: Mapping[str, Any]) -> None:
        del threads  # the GPU has its own
        self._lock = threading.Lock()
        trt = _library(settings["flavour"])
        self._stream = _called(cuda.cudaStreamCreate)
        self._buffers: dict[str, tuple[int, int]] = {}
        weakref.finalize(self, _give_back, self._stream, self._buffers)
        self._logger = trt.Logger(trt.Logger.ERROR)
        title = _TITLES[settings["flavour"]]
        try:
            self._runtime = trt.Runtime(self._logger)
        except TypeError as error:  # what the bindings raise where the library returns nothing
            raise EngineError(f"{title} {trt.__version__} does not start") from error
        # An engine that newer versions open has code for the processor in it.
        self._runtime.engine_host_code_allowed = bool(settings["version_compatible"])
        self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            raise EngineError(
                f"{title} {trt.__version__} cannot open {file.name}: it was built with {title} {settings['version']} "
                f"for {', '.join(settings['targets'])}",
                "Install requirements.txt, and look with nvidia-smi whether the GPU is one of those",
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{title} cannot make an execution context")
        self._input, self._output = settings["input"], settings["output"]
        self._types = {name: trt.nptype(self._engine.get_tensor_dtype(name)) for name in (self._input, self._output)}

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, classes).

        Raises:
            EngineError: The engine does not take the batch, or CUDA fails.
        """
        with self._lock:
            fed = np.ascontiguousarray(inputs, dtype=self._types[self._input])
            _must(self._context.set_input_shape(self._input, fed.shape), f"a batch of shape {fed.shape}")
            shape = tuple(self._context.get_tensor_shape(self._output))
            _must(min(shape, default=0) >= 0, f"to say the shape of {self._output}")
            found = np.empty(shape, self._types[self._output])
            for name, values in ((self._input, fed), (self._output, found)):
                _must(self._context.set_tensor_address(name, self._room(name, values.nbytes)), f"memory for {name}")
            kinds = cuda.cudaMemcpyKind
            _called(
                cuda.cudaMemcpyAsync, self._buffers[self._input][0], fed.ctypes.data, fed.nbytes,
                kinds.cudaMemcpyHostToDevice, self._stream,
            )  # fmt: skip
            _must(self._context.execute_async_v3(int(self._stream)), "to run the engine")
            _called(
                cuda.cudaMemcpyAsync, found.ctypes.data, self._buffers[self._output][0], found.nbytes,
                kinds.cudaMemcpyDeviceToHost, self._stream,
            )  # fmt: skip
            _called(cuda.cudaStreamSynchronize, self._stream)
            return found.astype(np.float32)

    def _room(self, name: str, size: int) -> int:
        """Return the address of memory on the GPU for a tensor; it grows with the batch."""
        address, held = self._buffers.get(name, (0, 0))
        if held < size:
            # Forgotten first: it is gone, whether or not there is room for a larger one.
            if self._buffers.pop(name, None):
                _called(cuda.cudaFree, address)
            address = int(_called(cuda.cudaMalloc, size))
            self._buffers[name] = (address, size)
        return address


def _give_back(stream: Any, buffers: Mapping[str, tuple[int, int]]) -> None:
    for address, _ in buffers.values():
        cuda.cudaFree(address)
    cuda.cudaStreamDestroy(stream)


def _must(done: bool, what: str) -> None:
    if not done:
        raise EngineError(f"TensorRT refuses {what}")


def _called(function: Any, *arguments: Any) -> Any:
    """Call a function of CUDA: each returns its status first, then what it made."""
    status, *made = function(*arguments)
    if int(status) != 0:
        raise EngineError(f"{function.__name__} failed: {cuda.cudaGetErrorString(status)[1].decode()}")
    return made[0] if made else None


def _library(flavour: str) -> Any:
    """Import TensorRT or its lean runtime, or TensorRT for RTX.

    Raises:
        ImportError: It is not installed.
        EngineError: It is installed, and does not load.
    """
    try:
        return importlib.import_module(_rtx() if flavour == "rtx" else _tensorrt())
    except (OSError, RuntimeError) as error:
        raise EngineError(f"{_TITLES[flavour]} does not load: {error}", "Install requirements.txt again") from error


def _tensorrt() -> str:
    """Return the module of TensorRT. That of the lean runtime has two names: of its package and of its bindings."""
    names = ("tensorrt", "tensorrt_lean", "tensorrt_lean_bindings")
    return next((name for name in names if importlib.util.find_spec(name) is not None), names[0])


def _rtx() -> str:
    """Return the module of TensorRT for RTX, with the libraries loaded that its package may lack."""
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        return "tensorrt_rtx"
    module = "tensorrt_rtx_bindings"
    if importlib.util.find_spec(module) is None or importlib.util.find_spec("tensorrt_rtx_libs") is not None:
        return module
    spec = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if spec is None or spec.origin is None:
        raise ImportError("tensorrt_rtx_bindings is installed without the libraries that it binds")
    # The bindings are linked against both, though nothing is parsed here.
    for pattern in ("libtensorrt_rtx.so*", "libtensorrt_onnxparser_rtx.so*"):
        for library in sorted(Path(spec.origin).parent.glob(pattern)):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return module
