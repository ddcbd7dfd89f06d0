"""Test doubles of pycuda's driver, of CUDA graphs and of the TensorRT runtime, for machines without a GPU.

The driver keeps "device" memory in host memory and does every asynchronous call at once. The engine
gives each image 4 logits, all its mean.
"""

import ctypes
import types

import numpy as np

CLASSES = 4


class DriverDouble(types.ModuleType):
    """Test double of `pycuda.driver`.

    Attributes:
        alive: What has not been freed.
        largest: Allocations above this many bytes fail.
        depth: How many contexts are on the stack.
    """

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("pycuda.driver")
        self.alive, self.largest, self.depth = set(), 1 << 30, 0
        self.Context = types.SimpleNamespace(pop=self._pop)

    def init(self):
        pass

    def _push(self):
        self.depth += 1

    def _pop(self):
        self.depth -= 1
        assert self.depth >= 0

    def Device(self, index):  # noqa: N802 -- pycuda's name
        assert index == 0
        context = types.SimpleNamespace(push=self._push, detach=lambda: None)
        return types.SimpleNamespace(retain_primary_context=lambda: context)

    def Stream(self):  # noqa: N802
        return types.SimpleNamespace(handle=7, synchronize=lambda: None)

    def Event(self):  # noqa: N802
        return types.SimpleNamespace(
            record=lambda _stream: None, synchronize=lambda: None, time_till=lambda _other: 0.5
        )

    def mem_alloc(self, size):
        return Memory(self, size)

    def pagelocked_empty(self, shape, dtype):
        array = np.zeros(shape, dtype).view(Locked)
        array.base = Memory(self, array.nbytes)
        return array

    def memcpy_htod_async(self, target, source, _stream):
        assert source.flags.c_contiguous
        ctypes.memmove(int(target), source.ctypes.data, source.nbytes)

    def memcpy_dtoh_async(self, target, source, _stream):
        assert target.flags.c_contiguous
        ctypes.memmove(target.ctypes.data, int(source), target.nbytes)


class Memory:
    """An allocation that complains of a second free and of a missing context, as CUDA would."""

    def __init__(self, driver, size):
        assert driver.depth > 0, "no CUDA context is current"
        if size > driver.largest:
            raise driver.Error("cuMemAlloc failed: out of memory")
        self.driver, self.buffer = driver, ctypes.create_string_buffer(size)
        driver.alive.add(self)

    def __int__(self):
        return ctypes.addressof(self.buffer)

    def free(self):
        assert self.driver.depth > 0, "no CUDA context is current"
        self.driver.alive.remove(self)


class Locked(np.ndarray):
    """An array whose `base` owns page-locked memory."""

    base = None


class GraphDriverDouble(types.ModuleType):
    """Test double of `cuda.bindings.driver`.

    Attributes:
        log: Names of the functions called.
        status: What `cuGraphInstantiate` answers.
    """

    CUstreamCaptureMode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self):
        super().__init__("cuda.bindings.driver")
        self.log, self.status = [], 0

    def CUstream(self, handle):  # noqa: N802 -- the library's name
        return handle

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*_arguments):
            self.log.append(name)
            return (self.status if name == "cuGraphInstantiate" else 0, len(self.log))

        return call


class ContextDouble:
    """Test double of `IExecutionContext`; under a profiler, its only layers take 0.25 and 0.5 ms."""

    profiler, enqueue_emits_profile = None, False

    def __init__(self, engine):
        self.engine, self.addresses, self.shape = engine, {}, None

    def set_input_shape(self, name, shape):
        assert name == "images"
        self.shape = shape
        return True

    def set_tensor_address(self, name, address):
        assert name in ("images", "logits")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, _stream):
        if self.engine.broken:
            return False
        if self.profiler is not None and self.enqueue_emits_profile:
            self.profiler.report_layer_time("conv", 0.25)
            self.profiler.report_layer_time("pool", 0.5)
        count = int(np.prod(self.shape))
        inputs = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses["images"]))
        logits = mean_logits(inputs.reshape(self.shape))
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)
        return True


def mean_logits(images):
    """Return what the engine computes: float32 (n, 4)."""
    return np.repeat(images.mean(axis=(1, 2, 3), dtype=np.float32)[:, None], CLASSES, axis=1)


class EngineDouble:
    """Test double of `ICudaEngine`."""

    refittable = False
    broken = False

    def create_execution_context(self, *_settings):
        return ContextDouble(self)

    def create_runtime_config(self):
        return types.SimpleNamespace()

    def get_tensor_dtype(self, _name):
        return np.float32


class RuntimeDouble:
    """Test double of `Runtime`; `opened` collects what it was given to deserialize."""

    opened: list = []  # noqa: RUF012 -- emptied by the fixture

    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, data):
        self.opened.append(data)
        return EngineDouble()


class LoggerDouble:
    """Test double of `ILogger`."""


class API:
    """Test double of the library's module."""

    Runtime, ILogger, IProfiler = RuntimeDouble, LoggerDouble, object

    @staticmethod
    def nptype(kind):
        return kind
