"""What machine this is, as far as it decides a latency: figures of another one say nothing here."""

from __future__ import annotations

import platform
from typing import Any

from tlopt.environment import cores, processor, versions
from tlopt.measure.speed.nvml import Nvml
from tlopt.search.once import digest_of

_RUNTIMES = (
    "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-lean", "tensorrt-rtx-cu13-bindings", "torch",
)  # fmt: skip


def fingerprint() -> dict[str, Any]:
    """Return processor, cores, GPU and runtimes, as JSON types."""
    gpu = Nvml.open()
    installed = versions()
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": cores(),
        "gpu": gpu.name() if isinstance(gpu, Nvml) else None,
        "runtimes": {name: installed[name] for name in _RUNTIMES if name in installed},
    }


def fingerprint_digest() -> str:
    """Return the identity of the machine: 16 hexadecimal digits."""
    return digest_of(fingerprint())
