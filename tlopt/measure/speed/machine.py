"""Whether the machine was left alone while measuring: load, clocks, temperature, throttling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tlopt.environment import cores
from tlopt.measure.speed.nvml import Nvml

_MOVED = 0.1  # share by which a clock may differ between the first and the last third of the turns
_WARMED_C = 10.0  # degrees by which the temperature may
_PACKAGE = ("coretemp", "k10temp", "zenpower", "x86_pkg_temp", "cpu_thermal", "cpu-thermal")

State = Mapping[str, float | str | None]


def machine_state(root: Path = Path("/"), gpu: Nvml | None = None) -> State:
    """Return what tells whether the machine was left alone; None where it cannot be read.

    Args:
        root: Where /proc and /sys are.
        gpu: The GPU to ask, too.

    Returns:
        load_1min, clock_mhz (the fastest core's), stolen_s (given to others by a hypervisor since
        the start), temperature_c (the hottest sensor of the processor), throttle_events (of all
        cores since the start); of a GPU its clock, temperature and what slows it at this moment.
    """
    found: dict[str, float | str | None] = {
        "load_1min": _load(root),
        "clock_mhz": _clock(root),
        "stolen_s": _stolen(root),
        "temperature_c": _temperature(root),
        "throttle_events": _throttle_events(root),
    }
    if gpu is not None:
        found |= {
            "gpu_clock_mhz": gpu.clock_mhz(),
            "gpu_temperature_c": gpu.temperature_c(),
            "gpu_throttled": ", ".join(gpu.throttled()),
        }
    return found


@dataclass
class Watch:
    """Looks at the machine before, after each turn, and after all.

    What a machine does at rest says little about it at work: whether its clocks moved is judged by
    the turns alone, the first third of each sweep against the last.
    """

    root: Path = Path("/")
    gpu: Nvml | None = None
    before: State = field(default_factory=dict)
    after: State = field(default_factory=dict)
    sweeps: list[list[State]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = self.state()

    def state(self) -> State:
        """Return the machine's state at this moment."""
        return machine_state(self.root, self.gpu)

    def sweep(self) -> None:
        """Begin a new series of turns."""
        self.sweeps.append([])

    def look(self) -> None:
        """Note the state after a turn."""
        self.sweeps[-1].append(self.state())

    def close(self) -> None:
        """Note the state after all."""
        self.after = self.state()

    def to_dict(self) -> dict[str, object]:
        """Return the states before and after, and the range over the turns, as JSON types."""
        ranges = {}
        for name in ("clock_mhz", "temperature_c", "gpu_clock_mhz", "gpu_temperature_c"):
            seen = [value for sweep in self.sweeps for value in _values(sweep, name)]
            if seen:
                ranges[name] = [min(seen), max(seen)]
        return {"before": dict(self.before), "after": dict(self.after), "range": ranges}

    def notes(self) -> list[str]:
        """Return a warning for each thing that disturbed the measurement."""
        return [*self._drifts(), *self._slowed(), *self._crowded()]

    def _drifts(self) -> list[str]:
        found = []
        for name, what in (("clock_mhz", "processor"), ("gpu_clock_mhz", "GPU")):
            first, last = self._widest(name)
            if abs(last - first) > _MOVED * first:
                found.append(f"The {what}'s clock moved from {first:.0f} to {last:.0f} MHz while measuring.")
        for name, what in (("temperature_c", "processor"), ("gpu_temperature_c", "GPU")):
            first, last = self._widest(name)
            if last - first > _WARMED_C:
                found.append(f"The {what} warmed up from {first:.0f} to {last:.0f} °C while measuring.")
        return found

    def _widest(self, name: str) -> tuple[float, float]:
        """Return the medians of a sweep's first and last third, of the sweep where they differ most."""
        pairs = [(0.0, 0.0)]
        for sweep in self.sweeps:
            seen = _values(sweep, name)
            third = len(seen) // 3
            if third:
                pairs.append((float(np.median(seen[:third])), float(np.median(seen[-third:]))))
        return max(pairs, key=lambda pair: abs(pair[1] - pair[0]))

    def _slowed(self) -> list[str]:
        found = []
        events = _number(self.after, "throttle_events") - _number(self.before, "throttle_events")
        if events > 0:
            found.append(f"The processor slowed itself down {events:.0f} times while measuring: it was too hot.")
        every = (state.get("gpu_throttled") for sweep in self.sweeps for state in sweep)
        reasons = {str(reason) for reason in every if reason}
        if reasons:
            found.append(f"The GPU slowed itself down while measuring: {'; '.join(sorted(reasons))}.")
        return found

    def _crowded(self) -> list[str]:
        found = []
        stolen = _number(self.after, "stolen_s") - _number(self.before, "stolen_s")
        if stolen > 1:
            found.append(f"The hypervisor took {stolen:.1f} s from this machine while measuring.")
        load = _number(self.before, "load_1min")
        if load > 0.5 * cores():
            found.append(f"The machine was busy before: load {load:.1f} on {cores()} core{'s' * (cores() != 1)}.")
        return found


def _number(state: State, name: str) -> float:
    value = state.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _values(sweep: list[State], name: str) -> list[float]:
    return [float(value) for state in sweep if isinstance(value := state.get(name), int | float)]


def _load(root: Path) -> float | None:
    try:
        return float((root / "proc/loadavg").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _clock(root: Path) -> float | None:
    """Return the fastest core's clock frequency, MHz: the idle ones clock down."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return max((float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")), default=None)
    except (OSError, ValueError):
        return None


def _stolen(root: Path) -> float | None:
    """Return the seconds that a hypervisor has given to others since the start of the machine."""
    try:
        fields = (root / "proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        return int(fields[8]) / 100
    except (OSError, ValueError, IndexError):
        return None


def _temperature(root: Path) -> float | None:
    """Return the hottest of the processor's sensors, degrees Celsius."""
    seen = []
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if _word(chip / "name") in _PACKAGE:
            seen += [_word(file) for file in chip.glob("temp*_input")]
    if not seen:
        zones = (root / "sys/class/thermal").glob("thermal_zone*")
        seen = [_word(zone / "temp") for zone in zones if _word(zone / "type") in _PACKAGE]
    degrees = [int(value) / 1e3 for value in seen if value.lstrip("-").isdigit()]
    return max(degrees, default=None)


def _throttle_events(root: Path) -> float | None:
    """Return how often the cores have slowed down for heat since the start of the machine."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [int(value) for value in map(_word, files) if value.isdigit()]
    return float(sum(counts)) if counts else None


def _word(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
