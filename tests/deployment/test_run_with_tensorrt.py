"""The program of a bundle for engines, on a stand-in for CUDA and TensorRT whose memory is the processor's."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import tlopt.deployment.programs as programs

FILE = Path(programs.__file__).with_name("run_with_tensorrt.py")
SETTINGS = {
    "flavour": "tensorrt", "version": "10.13.2.6", "targets": ["sm89"], "version_compatible": True,
    "input": "images", "output": "logits",
}  # fmt: skip


class Cuda(types.ModuleType):
    """cuda.bindings.runtime: each function returns its status first."""

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.memory, self.status = {}, 0
        self.cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def cudaStreamCreate(self):  # noqa: N802
        return self.status, 7

    def cudaMalloc(self, size):  # noqa: N802
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
        self.shape = shape

    def get_tensor_shape(self, *_):
        return (self.shape[0], 2)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, *_):
        count = int(np.prod(self.shape))
        images = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses["images"]))
        logits = np.ctypeslib.as_array((ctypes.c_float * (self.shape[0] * 2)).from_address(self.addresses["logits"]))
        logits[:] = np.repeat(images.reshape(self.shape[0], -1).mean(1), 2) * 2
        return True


class TensorRT(types.ModuleType):
    """The module tensorrt."""

    __version__ = "10.0"

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
            return types.SimpleNamespace(get_tensor_dtype=lambda _: "float", create_execution_context=Context)

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
    monkeypatch.setitem(sys.modules, "tensorrt", TensorRT("tensorrt"))
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
    with pytest.raises(SystemExit, match=r"TensorRT 10\.0 cannot open other: it was built with 10\.13\.2\.6"):
        runtime.Network(tmp_path / "other", settings=SETTINGS)


def test_a_failure_of_cuda_is_told(runtime, cuda, plan):
    network = runtime.Network(plan, settings=SETTINGS)
    cuda.status = 2
    with pytest.raises(RuntimeError, match="cudaMalloc failed: out of memory"):
        network(np.zeros((1, 3, 4, 4), np.float32))


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


@pytest.mark.parametrize("lean", [True, False])
def test_the_lean_runtime_takes_the_place_of_what_is_not_installed(runtime, monkeypatch, lean):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda _: object() if lean else None)
    double = TensorRT("tensorrt_lean")
    monkeypatch.setitem(sys.modules, "tensorrt_lean", double)
    if lean:
        assert runtime._library("tensorrt") is double
    else:
        with pytest.raises(ModuleNotFoundError, match="tensorrt"):
            runtime._library("tensorrt")
