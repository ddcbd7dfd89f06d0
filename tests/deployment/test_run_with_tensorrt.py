"""The program of a bundle for engines, on a stand-in for CUDA and TensorRT whose memory is the processor's."""

from __future__ import annotations

import ast
import ctypes
import importlib.machinery
import importlib.util
import itertools
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import tlopt.deployment.programs as programs
from tlopt.errors import MissingLibraryError

FILE = Path(programs.__file__).with_name("run_with_tensorrt.py")
SETTINGS = {
    "flavour": "tensorrt", "version": "10.13.2.6", "targets": ["sm89"], "version_compatible": True,
    "input": "images", "output": "logits",
}  # fmt: skip


class Cuda(types.ModuleType):
    """cuda.bindings.runtime: each function returns its status first."""

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.memory, self.streams, self.status = {}, set(), 0
        self.cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def cudaStreamCreate(self):  # noqa: N802
        self.streams.add(7)
        return self.status, 7

    def cudaStreamDestroy(self, stream):  # noqa: N802
        self.streams.remove(stream)
        return (0,)

    def cudaMalloc(self, size):  # noqa: N802
        if self.status:
            return self.status, None
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return self.status, ctypes.addressof(buffer)

    def cudaFree(self, address):  # noqa: N802
        del self.memory[address]
        return (0,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):  # noqa: N802
        assert kind in (1, 2)
        assert stream == 7
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamSynchronize(self, *_):  # noqa: N802
        return (0,)

    def cudaGetErrorString(self, *_):  # noqa: N802
        return 0, b"out of memory"


class Context:
    """Doubles the mean of each image into two logits."""

    def __init__(self):
        self.shape, self.addresses = None, {}

    def set_input_shape(self, _, shape):
        if shape[0] > 8:
            return False
        self.shape = shape
        return True

    def get_tensor_shape(self, *_):
        return (self.shape[0], 2)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, *_):
        count = int(np.prod(self.shape))
        images = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses["images"]))
        logits = np.ctypeslib.as_array((ctypes.c_float * (self.shape[0] * 2)).from_address(self.addresses["logits"]))
        logits[:] = np.repeat(images.reshape(self.shape[0], -1).mean(1), 2) * 2
        return True


class TensorRT(types.ModuleType):
    """The module tensorrt."""

    __version__ = "10.0"
    context = Context

    class Logger:
        ERROR = 1

        def __init__(self, level):
            pass

    class Runtime:
        def __init__(self, *_):
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, data):
            if data != b"a plan":
                return None
            assert self.engine_host_code_allowed
            return types.SimpleNamespace(
                get_tensor_dtype=lambda _: "float", create_execution_context=lambda: TensorRT.context()
            )

    @staticmethod
    def nptype(_):
        return np.float32


@pytest.fixture
def cuda():
    return Cuda()


@pytest.fixture
def runtime(monkeypatch, cuda):
    """The program, with the stand-in in the place of both libraries."""
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = cuda
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    library = TensorRT("tensorrt")
    library.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    spec = importlib.util.spec_from_file_location("runtime", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "model.engine").write_bytes(b"a plan")
    return tmp_path / "model.engine"


def test_batches_of_any_size_are_answered_and_memory_is_kept(runtime, cuda, plan):
    network = runtime.Network(plan, settings=SETTINGS)
    for count in (2, 5, 1):
        images = np.random.default_rng(count).random((count, 3, 4, 4)).astype(np.float32)
        np.testing.assert_allclose(
            network(images), images.reshape(count, -1).mean(1)[:, None].repeat(2, 1) * 2, rtol=1e-6
        )
    assert sorted(len(buffer) for buffer in cuda.memory.values()) == [5 * 2 * 4, 5 * 48 * 4]


def test_an_engine_of_another_version_is_told(runtime, tmp_path):
    (tmp_path / "other").write_bytes(b"another plan")
    message = r"TensorRT 10\.0 cannot open other: it was built with TensorRT 10\.13\.2\.6 for sm89"
    with pytest.raises(runtime.EngineError, match=message) as caught:
        runtime.Network(tmp_path / "other", settings=SETTINGS)
    assert "nvidia-smi" in caught.value.hint


def test_a_failure_of_cuda_is_told(runtime, cuda, plan):
    network = runtime.Network(plan, settings=SETTINGS)
    cuda.status = 2
    with pytest.raises(runtime.EngineError, match="cudaMalloc failed: out of memory"):
        network(np.zeros((1, 3, 4, 4), np.float32))


def test_no_batch_runs_in_memory_that_was_given_back_for_a_larger_one(runtime, cuda, plan):
    network, small = runtime.Network(plan, settings=SETTINGS), np.ones((2, 3, 4, 4), np.float32)
    network(small)
    cuda.status = 2
    with pytest.raises(runtime.EngineError, match="cudaMalloc failed"):
        network(np.ones((5, 3, 4, 4), np.float32))
    cuda.status = 0
    np.testing.assert_allclose(network(small), 2)
    assert sorted(len(buffer) for buffer in cuda.memory.values()) == [2 * 2 * 4, 2 * 48 * 4]


def test_a_batch_that_the_engine_does_not_take_is_told(runtime, plan):
    network = runtime.Network(plan, settings=SETTINGS)
    network(np.ones((2, 3, 4, 4), np.float32))
    with pytest.raises(runtime.EngineError, match=r"TensorRT refuses a batch of shape \(9, 3, 4, 4\)"):
        network(np.ones((9, 3, 4, 4), np.float32))


def test_a_context_that_does_not_fit_in_memory_is_told(runtime, plan, monkeypatch):
    monkeypatch.setattr(TensorRT, "context", lambda: None)
    with pytest.raises(runtime.EngineError, match="cannot make an execution context"):
        runtime.Network(plan, settings=SETTINGS)


def test_what_it_holds_on_the_gpu_is_given_back_with_it(runtime, cuda, plan):
    network = runtime.Network(plan, settings=SETTINGS)
    network(np.ones((2, 3, 4, 4), np.float32))
    assert len(cuda.memory) == 2
    del network
    assert not cuda.memory
    assert not cuda.streams


def test_the_real_library_for_rtx_is_imported_where_nothing_else_has_loaded_its_parts():
    from tlopt.engine import flavour

    if reason := flavour.problem("rtx"):
        pytest.skip(reason)
    script = f"import runpy; print(runpy.run_path({str(FILE)!r})['_library']('rtx').__version__)"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (flavour.load("rtx").version, "")


def test_the_real_libraries_have_what_the_program_calls():
    api = pytest.importorskip("cuda.bindings.runtime")
    tree = ast.parse(FILE.read_text())
    named = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "cuda"}
    assert len(named) > 5
    assert all(hasattr(api, name) for name in named)
    from tlopt.engine import flavour

    if reason := flavour.problem("rtx"):
        pytest.skip(reason)
    rtx = flavour.load("rtx").api
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for owner, names in (
        (rtx, {"Logger", "Runtime", "nptype"}),
        (rtx.Runtime, {"engine_host_code_allowed", "deserialize_cuda_engine"}),
        (rtx.ICudaEngine, {"get_tensor_dtype", "create_execution_context"}),
        (rtx.IExecutionContext, {"set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"}),
    ):
        assert names <= used
        assert all(hasattr(owner, name) for name in names)


def subsets(*names):
    return [chosen for count in range(len(names) + 1) for chosen in itertools.combinations(names, count)]


@pytest.mark.parametrize(
    ("name", "installed"),
    [
        *(("tensorrt", chosen) for chosen in subsets("tensorrt", "tensorrt_lean", "tensorrt_lean_bindings")),
        *(
            ("rtx", chosen)
            for chosen in subsets(
                "tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt_rtx_libs", "onnxruntime_ep_nv_tensorrt_rtx"
            )
        ),
    ],
)
def test_it_takes_the_module_and_the_libraries_that_tlopt_takes(runtime, tmp_path, monkeypatch, name, installed):
    from tlopt.engine import flavour

    for library in ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"):
        (tmp_path / library).touch()
    spec = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))

    def imported(module):
        if module not in installed:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return types.SimpleNamespace(__name__=module, __version__="99.0")

    loaded = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: spec if module in installed else None)
    monkeypatch.setattr(importlib, "import_module", imported)
    monkeypatch.setattr(flavour.registry, "require", imported)
    monkeypatch.setattr(ctypes, "CDLL", lambda file, **_: loaded.append(file))

    def told(load):
        loaded.clear()
        try:
            return load().__name__, list(loaded)
        except (ImportError, MissingLibraryError):
            return None

    assert told(lambda: runtime._library(name)) == told(lambda: flavour.load.__wrapped__(name, to_run=True).api)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("libcuda.so.1: not found"), "does not load: libcuda"),
        (RuntimeError("no CUDA"), "does not load: no CUDA"),
    ],
)
def test_a_library_that_does_not_load_says_what_to_do(runtime, plan, monkeypatch, error, told):
    def imported(_):
        raise error

    monkeypatch.setattr(runtime.importlib, "import_module", imported)
    with pytest.raises(runtime.EngineError, match=told) as caught:
        runtime.Network(plan, settings=SETTINGS)
    assert "requirements.txt" in caught.value.hint


def test_a_library_that_does_not_start_says_what_to_do(runtime, plan, monkeypatch):
    def made(_):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(TensorRT, "Runtime", made)
    with pytest.raises(runtime.EngineError, match=r"TensorRT 10\.0 does not start") as caught:
        runtime.Network(plan, settings=SETTINGS)
    assert "nvidia-smi" in caught.value.hint


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaStreamCreate"])
def test_every_call_of_cuda_that_fails_is_told(runtime, cuda, plan, monkeypatch, call):
    def failed(*_):
        return (2, None) if call == "cudaStreamCreate" else (2,)

    failed.__name__ = call
    monkeypatch.setattr(cuda, call, failed)
    with pytest.raises(runtime.EngineError, match=f"{call} failed: out of memory"):
        runtime.Network(plan, settings=SETTINGS)(np.zeros((1, 3, 4, 4), np.float32))


@pytest.mark.parametrize("shape", [(-1, 2), (1, -1)])
def test_an_output_whose_shape_is_not_known_is_told(runtime, plan, monkeypatch, shape):
    monkeypatch.setattr(Context, "get_tensor_shape", lambda *_: shape)
    with pytest.raises(runtime.EngineError, match=r"shape of logits"):
        runtime.Network(plan, settings=SETTINGS)(np.zeros((1, 3, 4, 4), np.float32))
