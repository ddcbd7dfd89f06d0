"""Test doubles of the TensorRT runtime, for machines without a GPU.

The engine gives each image 4 logits, all its mean plus the engine's bias, and as many numbers in any other output. Its
context launches that as a kernel on the stand-in for the CUDA driver of tests/fake_cuda. It refuses what the real one
refuses. Where `LAUNCH` is replaced, the kernel runs on a real GPU.
"""

import ctypes

import numpy as np
import tiny_engine

from tlopt.cards.details import Gpu

CLASSES = 4
GPU = Gpu(**tiny_engine.GPU)


def batch(count, seed=0):
    """Return random images, float32 (n, 3, 2, 2)."""
    return np.random.default_rng(100 * seed + count).standard_normal((count, 3, 2, 2)).astype(np.float32)


def mean_logits(images, bias=0.0):
    """Return what the engine computes: float32 (n, 4)."""
    return np.repeat(images.mean(axis=(1, 2, 3), dtype=np.float32)[:, None], CLASSES, axis=1) + np.float32(bias)


def launch_on_the_stand_in(stream, source, target, *sizes, bias):
    """Queue the kernel, whatever came before it in the stream; return whether it was taken.

    Args:
        stream: The stream's handle.
        source: Address of the images, float32 (n, size).
        target: Address of the answer, float32 (n, classes).
        sizes: n, size and classes.
        bias: Added to each mean.
    """
    numbers = [ctypes.c_int64(number) for number in (source, target, *sizes)]
    launch = ctypes.CDLL("libcuda.so.1").stand_in_launch_mean
    return launch(ctypes.c_void_p(stream), *numbers, ctypes.c_float(bias)) == 0


LAUNCH = launch_on_the_stand_in


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
        assert name in ("images", "logits", "boxes")
        self.addresses[name] = address
        return address % 256 == 0

    def execute_async_v3(self, stream):
        if self.engine.broken:
            return False
        if self.profiler is not None and self.enqueue_emits_profile:
            capturing = ctypes.c_int()
            ctypes.CDLL("libcuda.so.1").cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(capturing))
            if capturing.value:
                return False  # it would wait for each layer, which no capture survives
            self.profiler.report_layer_time("conv", 0.25)
            self.profiler.report_layer_time("pool", 0.5)
        sizes = (self.shape[0], int(np.prod(self.shape[1:])), CLASSES)
        source = self.addresses["images"]
        return all(
            LAUNCH(stream, source, target, *sizes, bias=self.engine.bias)
            for name, target in self.addresses.items()
            if name != "images"
        )


class RuntimeCacheDouble:
    """Test double of `IRuntimeCache`: a plus for each context that compiled into it; it refuses b"foreign"."""

    content = b""

    def serialize(self):
        return self.content

    def deserialize(self, blob):
        self.content = b"" if blob == b"foreign" else bytes(blob)
        return blob != b"foreign"


class RuntimeConfigDouble:
    """Test double of `IRuntimeConfig`."""

    cache = None

    def create_runtime_cache(self):
        return RuntimeCacheDouble()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class EngineDouble:
    """Test double of `ICudaEngine`."""

    refittable = True
    broken = False
    bias = 0.0

    def create_execution_context(self, config=None):
        if config is not None and config.cache is not None:
            config.cache.content += b"+"
        return ContextDouble(self)

    def create_runtime_config(self):
        return RuntimeConfigDouble()

    num_io_tensors = 3

    def get_tensor_name(self, index):
        return ("images", "logits", "boxes")[index]

    def get_tensor_dtype(self, _name):
        return np.float32

    def get_tensor_shape(self, name):
        return {"logits": (-1, CLASSES), "boxes": (-1, 2, 2)}[name]


class RuntimeDouble:
    """Test double of `Runtime`.

    Attributes:
        opened: What it was given to deserialize.
        host_code: Whether the code in each was allowed to run.
    """

    engine_host_code_allowed = False
    opened: list = []  # noqa: RUF012 -- emptied by the fixture
    host_code: list = []  # noqa: RUF012

    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, data):
        self.opened.append(data)
        self.host_code.append(self.engine_host_code_allowed)
        return EngineDouble()


class RefitterDouble:
    """Test double of `Refitter` and `OnnxParserRefitter`: a short file says the new bias, any other file is of none."""

    def __init__(self, engine, _logger):
        self.engine = engine

    def refit_from_file(self, path):
        with open(path, "rb") as file:
            content = file.read()
        self.engine.engine.bias = float(content) if len(content) < 10 else 0.0
        return True

    def refit_cuda_engine(self):
        return True


class LoggerDouble:
    """Test double of `ILogger`."""


class API:
    """Test double of the library's module."""

    Runtime, ILogger, IProfiler, Refitter, OnnxParserRefitter = (
        RuntimeDouble, LoggerDouble, object, RefitterDouble, RefitterDouble,
    )  # fmt: skip

    @staticmethod
    def nptype(kind):
        return kind
