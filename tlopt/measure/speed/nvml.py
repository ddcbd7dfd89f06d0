"""What an NVIDIA GPU says of itself, through NVML (the package nvidia-ml-py)."""

from __future__ import annotations

import os
from typing import Any, Self

from tlopt import registry
from tlopt.engine.gpu import pci_bus_id
from tlopt.errors import MissingLibraryError

# Reasons for a clock below its highest that tell of a limit; the others are settings and idleness.
# nvml.h, nvmlClocksEventReasons.
_LIMITS = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat, by software", 0x40: "heat, by hardware",
           0x80: "power brake"}  # fmt: skip


class Nvml:
    """The first GPU that CUDA shows to this process. What it does not report is None.

    Args:
        api: The module ``pynvml``.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        self._gpu = _handle(api)

    @classmethod
    def open(cls, api: Any = None) -> Self | str:
        """Return the GPU, or why it cannot be asked."""
        try:
            api = api or registry.require("pynvml")
        except MissingLibraryError:
            return "nvidia-ml-py is not installed (python -m pip install nvidia-ml-py)"
        try:
            api.nvmlInit()
            return cls(api)
        except api.NVMLError as error:
            return f"NVML does not start: {error}"

    def name(self) -> str | None:
        """Return what its maker calls it."""
        name = self._ask("nvmlDeviceGetName")
        return name.decode() if isinstance(name, bytes) else name

    def used_mb(self) -> float | None:
        """Return the memory in use on the GPU, by all processes, 10^6 bytes."""
        info = self._ask("nvmlDeviceGetMemoryInfo")
        return None if info is None else float(info.used) / 1e6

    def energy_j(self) -> float | None:
        """Return the energy used since the driver was loaded, joules; since Volta."""
        used = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if used is None else float(used) / 1e3

    def clock_mhz(self) -> float | None:
        """Return the clock of the multiprocessors."""
        clock = self._ask("nvmlDeviceGetClockInfo", self._api.NVML_CLOCK_SM)
        return None if clock is None else float(clock)

    def temperature_c(self) -> float | None:
        """Return the temperature of the chip."""
        degrees = self._ask("nvmlDeviceGetTemperature", self._api.NVML_TEMPERATURE_GPU)
        return None if degrees is None else float(degrees)

    def throttled(self) -> list[str]:
        """Return what limits the clock at this moment."""
        # "Event reasons" since driver 535. The Python package has both names whatever the driver knows.
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        bits = next((found for name in names if (found := self._ask(name)) is not None), 0)
        return [reason for bit, reason in _LIMITS.items() if bits & bit]

    def _ask(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._api, function)(self._gpu, *arguments)
        except (self._api.NVMLError, AttributeError):
            return None


def _handle(api: Any) -> Any:
    """Return the handle of the GPU that CUDA calls its first.

    CUDA puts the fastest GPU first, NVML goes by the PCI bus. A part of a GPU (MIG) has only the whole one's figures.
    """
    if place := pci_bus_id():
        return api.nvmlDeviceGetHandleByPciBusId(place.encode())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    if visible.startswith(("GPU-", "MIG-")):
        return api.nvmlDeviceGetHandleByUUID(visible)
    return api.nvmlDeviceGetHandleByIndex(int(visible) if visible.isdigit() else 0)
