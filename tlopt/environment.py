"""What this machine is: the conditions that every result is recorded with."""

from __future__ import annotations

import functools
import platform
import sys
from pathlib import Path
from typing import Any

from tlopt.process.cpu import MOST_THREADS as MOST_THREADS
from tlopt.process.cpu import cores as cores
from tlopt.process.cpu import waiting as waiting


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of tlopt, Python and the installed libraries that decide a result."""
    import importlib.metadata  # takes a while; help needs no versions

    found = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


_VERSIONED = (
    "tlopt", "torch", "timm", "numpy", "pillow", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino",
    "tensorrt", "tensorrt-lean", "tensorrt-rtx-cu13-bindings", "pycuda", "torch-pruning",
)  # fmt: skip


def computed_on() -> str:
    """Return the GPU that torch has computed on in this process, else the processor."""
    # Not remembered: torch may begin to use the GPU later in the same process.
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return processor()


def processor() -> str:
    """Return the processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def processor_flags() -> frozenset[str]:
    """Return what the processor can do, by the names of Linux; empty if that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))
