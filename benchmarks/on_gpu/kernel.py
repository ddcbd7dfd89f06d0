"""A kernel that stands in for a network where TensorRT is missing, compiled on the machine with the GPU."""

from __future__ import annotations

import ctypes
from typing import Any

_SOURCE = b"""
extern "C" __global__ void mean(const float* images, float* logits, long long size, int classes, float bias) {
    __shared__ double sums[256];
    const float* image = images + blockIdx.x * size;
    double sum = 0;
    for (long long at = threadIdx.x; at < size; at += blockDim.x) sum += image[at];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    for (int k = threadIdx.x; k < classes; k += blockDim.x) logits[blockIdx.x * classes + k] = sums[0] / size + bias;
}
"""
_THREADS = 256  # in a block, as many as the kernel's sums


class Kernel:
    """Gives each image the logits `gpu_doubles.mean_logits` does, on a real GPU.

    Args:
        launches: How often it is launched for one batch. A network of 50 layers launches about 50 kernels.
    """

    def __init__(self, *, launches: int = 1) -> None:
        from cuda.bindings import driver, nvrtc

        self._driver, self._nvrtc, self.launches = driver, nvrtc, launches
        self._call(driver, "cuInit", 0)
        device = self._call(driver, "cuDeviceGet", 0)
        self._call(driver, "cuCtxPushCurrent", self._call(driver, "cuDevicePrimaryCtxRetain", device))
        try:
            code = ctypes.create_string_buffer(self._compiled(device))
            module = self._call(driver, "cuModuleLoadData", ctypes.addressof(code))
            self._function = self._call(driver, "cuModuleGetFunction", module, b"mean")
        finally:
            self._call(driver, "cuCtxPopCurrent")

    def _compiled(self, device: Any) -> bytes:
        """Return the kernel's machine code for a GPU."""
        attributes = self._driver.CUdevice_attribute
        major = self._call(
            self._driver, "cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device
        )
        minor = self._call(
            self._driver, "cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device
        )
        program = self._call(self._nvrtc, "nvrtcCreateProgram", _SOURCE, b"mean.cu", 0, [], [])
        self._call(self._nvrtc, "nvrtcCompileProgram", program, 1, [f"--gpu-architecture=sm_{major}{minor}".encode()])
        code = b" " * self._call(self._nvrtc, "nvrtcGetCUBINSize", program)
        self._call(self._nvrtc, "nvrtcGetCUBIN", program, code)
        return bytes(code)

    @staticmethod
    def _call(api: Any, function: str, *arguments: Any) -> Any:
        status, *made = getattr(api, function)(*arguments)
        if int(status) != 0:
            raise RuntimeError(f"{function} failed with {status}")
        return made[0] if made else None

    def __call__(
        self, stream: int, source: int, target: int, count: int, size: int, classes: int, *, bias: float
    ) -> bool:
        """Queue the kernel on a stream; return whether CUDA took it."""
        values = (source, target, size, classes, bias)
        types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int, ctypes.c_float)
        sizes = (count, 1, 1, _THREADS, 1, 1)
        for _ in range(self.launches):
            (status,) = self._driver.cuLaunchKernel(self._function, *sizes, 0, stream, (values, types), 0)
            if int(status) != 0:
                return False
        return True
