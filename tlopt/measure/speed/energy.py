"""How much energy the machine uses: RAPL for the processor, NVML for the GPU."""

from __future__ import annotations

from pathlib import Path

from tlopt.measure.speed.nvml import Nvml

_ZONES = ("package", "dram")  # the others are inside of a package, or count it again


class Meter:
    """Reads the energy used so far.

    Args:
        root: Where /sys is.
        gpu: The GPU, why it cannot be asked, or None if none is measured.

    Attributes:
        missing: Part -> why its energy cannot be read.
    """

    def __init__(self, root: Path = Path("/"), gpu: Nvml | str | None = None) -> None:
        self.missing: dict[str, str] = {}
        self._gpu: Nvml | None = None
        self._zones = self._readable(root / "sys/class/powercap")
        self._last = {zone: _micro(zone / "energy_uj") for zone in self._zones}
        self._used_j = 0.0
        self._gpu_j = 0.0
        if isinstance(gpu, str):
            self.missing["gpu"] = gpu
        elif gpu is not None:
            used = gpu.energy_j()
            if used is None:
                self.missing["gpu"] = "the GPU has no energy counter that NVML can read"
            else:
                self._gpu, self._gpu_j = gpu, used

    def read(self) -> dict[str, float]:
        """Return part ("cpu", "gpu") -> joules since some moment; only parts that can be read."""
        found = {}
        if self._zones:
            for zone, last in self._last.items():
                now = _micro(zone / "energy_uj")
                # The counter starts again at zero once it has reached its range.
                self._used_j += (now - last if now >= last else now - last + _micro(zone / "max_energy_range_uj")) / 1e6
                self._last[zone] = now
            found["cpu"] = self._used_j
        if self._gpu is not None:
            # A read that fails now and then leaves the counter where it was.
            used = self._gpu.energy_j()
            self._gpu_j = self._gpu_j if used is None else used
            found["gpu"] = self._gpu_j
        return found

    def _readable(self, folder: Path) -> list[Path]:
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _name(zone).startswith(_ZONES)]
        if not zones:
            self.missing["cpu"] = f"there is no RAPL counter below {folder}"
            return []
        try:
            for zone in zones:
                _micro(zone / "energy_uj")
                _micro(zone / "max_energy_range_uj")
        except PermissionError:
            self.missing["cpu"] = f"{zone / 'energy_uj'} may be read by root only"
            return []
        except (OSError, ValueError) as error:
            self.missing["cpu"] = f"{zone} cannot be read: {error}"
            return []
        return zones


def _micro(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="ascii").strip()
    except OSError:
        return ""
