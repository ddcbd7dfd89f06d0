"""The NVIDIA GPU of this machine, asked through the driver itself: no CUDA package is needed."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from tlopt.cards.details import Gpu

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{MAJOR,MINOR}, cuda.h


class _DriverError(Exception):
    pass


@functools.cache
def gpu() -> Gpu | None:
    """Return the first GPU, or None where there is none (`gpu_problem` says why)."""
    try:
        return _ask()
    except _DriverError:
        return None


@functools.cache
def gpu_problem() -> str:
    """Return why no GPU can be used here, found by asking the driver; empty if one can."""
    try:
        _ask()
    except _DriverError as error:
        return str(error)
    return ""


@functools.cache
def pci_bus_id() -> str:
    """Return where the first GPU sits on the PCI bus ("0000:65:00.0"); empty where there is none."""
    try:
        call = _driver()
        device, place = ctypes.c_int(), ctypes.create_string_buffer(32)
        call("cuInit", 0)
        call("cuDeviceGet", ctypes.byref(device), 0)
        call("cuDeviceGetPCIBusId", place, len(place), device)
    except _DriverError:
        return ""
    return place.value.decode()


def allocation_problem() -> str:
    """Return why no memory can be had on the GPU, found by allocating 1 MiB; empty if it can."""
    try:
        call = _driver()
        device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
        call("cuInit", 0)
        call("cuDeviceGet", ctypes.byref(device), 0)
        call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            call("cuCtxPushCurrent_v2", context)
            try:
                call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(1 << 20))
                call("cuMemFree_v2", memory)
            finally:
                call("cuCtxPopCurrent_v2", ctypes.byref(context))
        finally:
            call("cuDevicePrimaryCtxRelease_v2", device)
    except _DriverError as error:
        return str(error)
    return ""


def _driver() -> Callable[..., None]:
    """Return what calls a function of the driver and raises its refusal."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise _DriverError("There is no NVIDIA driver here (libcuda.so.1 does not load).") from error

    def call(function: str, *arguments: object) -> None:
        code = getattr(driver, function)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            driver.cuGetErrorString(code, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {code}"
            raise _DriverError(f"The NVIDIA driver refuses {function}: {reason}.")

    return call


def _ask() -> Gpu:
    call = _driver()
    call("cuInit", 0)
    count, version, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise _DriverError("The NVIDIA driver sees no GPU.")
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, 256, device)
    major, minor = ctypes.c_int(), ctypes.c_int()
    call("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    call("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    return Gpu(
        name=name.value.decode(),
        capability=f"sm{major.value}{minor.value}",
        driver_cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )
