from __future__ import annotations

import types
from pathlib import Path

import pytest

from tlopt.measure.speed import nvml
from tlopt.measure.speed.energy import Meter
from tlopt.measure.speed.machine import Watch, machine_state
from tlopt.measure.speed.nvml import Nvml


def write(root: Path, **files: str) -> Path:
    for name, content in files.items():
        file = root / name.replace("__", "/").replace("_C_", ":")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def sys_tree(root: Path, *, mhz: float = 3000, celsius: float = 50, throttled: int = 0, stolen: int = 100) -> Path:
    return write(
        root,
        proc__loadavg="0.00 0.00 0.00 1/100 1\n",
        proc__stat=f"cpu  1 2 3 4 5 6 7 {stolen} 0 0\n",
        proc__cpuinfo=f"model name\t: x\ncpu MHz\t\t: 800.0\n\ncpu MHz\t\t: {mhz}\n",
        sys__class__hwmon__hwmon0__name="nvme\n",
        sys__class__hwmon__hwmon0__temp1_input="99000\n",
        sys__class__hwmon__hwmon1__name="coretemp\n",
        sys__class__hwmon__hwmon1__temp1_input=f"{celsius * 1000:.0f}\n",
        sys__class__hwmon__hwmon1__temp2_input="20000\n",
        sys__devices__system__cpu__cpu0__thermal_throttle__core_throttle_count=f"{throttled}\n",
        sys__devices__system__cpu__cpu1__thermal_throttle__core_throttle_count="1\n",
    )


class NvmlDouble(types.ModuleType):
    """Test double of `pynvml` with one GPU."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self, **answers: object) -> None:
        super().__init__("pynvml")
        self.answers = {
            "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(used=512_000_000),
            "nvmlDeviceGetTotalEnergyConsumption": 5000,
            "nvmlDeviceGetClockInfo": 1500,
            "nvmlDeviceGetTemperature": 40,
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
        } | answers

    def nvmlInit(self) -> None:  # noqa: N802 -- the library's name
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"gpu {index}"

    def __getattr__(self, name: str) -> object:
        if name not in self.__dict__.get("answers", {}):
            raise AttributeError(name)

        def ask(_gpu: str, *_arguments: object) -> object:
            answer = self.answers[name]
            if answer is None:
                raise self.NVMLError("Not Supported")
            return answer

        return ask


def test_the_state_comes_from_the_kernels_files(tmp_path):
    assert machine_state(sys_tree(tmp_path, throttled=2)) == {
        "load_1min": 0.0, "clock_mhz": 3000.0, "stolen_s": 1.0, "temperature_c": 50.0, "throttle_events": 3.0,
    }  # fmt: skip


def test_a_thermal_zone_serves_where_there_is_no_sensor_chip(tmp_path):
    write(tmp_path, sys__class__thermal__thermal_zone0__type="x86_pkg_temp\n",
          sys__class__thermal__thermal_zone0__temp="61000\n")  # fmt: skip
    assert machine_state(tmp_path)["temperature_c"] == 61


def test_what_the_machine_does_not_tell_is_none(tmp_path):
    assert set(machine_state(tmp_path).values()) == {None}


def test_a_steady_machine_gets_no_warning(tmp_path):
    watch = Watch(root=sys_tree(tmp_path, mhz=900, celsius=30))
    watch.sweep()
    for _ in range(9):
        sys_tree(tmp_path, mhz=3000, celsius=60)  # at work, it differs from before but no longer changes
        watch.look()
    watch.close()
    assert watch.notes() == []
    assert watch.to_dict()["range"] == {"clock_mhz": [3000, 3000], "temperature_c": [60, 60]}


def test_clocks_heat_throttling_and_stolen_time_are_warned_of(tmp_path):
    watch = Watch(root=sys_tree(tmp_path))
    watch.sweep()
    for i in range(9):
        sys_tree(tmp_path, mhz=3000 - 100 * i, celsius=50 + 5 * i)
        watch.look()
    sys_tree(tmp_path, throttled=4, stolen=500)
    watch.close()
    assert watch.notes() == [
        "The processor's clock moved from 2900 to 2300 MHz while measuring.",
        "The processor warmed up from 55 to 85 °C while measuring.",
        "The processor slowed itself down 4 times while measuring: it was too hot.",
        "The hypervisor took 4.0 s from this machine while measuring.",
    ]


def test_the_gpu_is_watched_too(tmp_path):
    api = NvmlDouble(nvmlDeviceGetCurrentClocksEventReasons=0x1 | 0x4 | 0x40)
    gpu = Nvml.open(api)
    watch = Watch(root=tmp_path, gpu=gpu)
    watch.sweep()
    for clock in (1800, 1800, 1800, 1200, 1200, 1200):
        api.answers["nvmlDeviceGetClockInfo"] = clock
        watch.look()
    watch.close()
    assert watch.notes() == [
        "The GPU's clock moved from 1800 to 1200 MHz while measuring.",
        "The GPU slowed itself down while measuring: power cap, heat, by hardware.",
    ]


def test_a_gpu_that_does_not_report_something_gives_none():
    gpu = Nvml.open(NvmlDouble(nvmlDeviceGetTotalEnergyConsumption=None, nvmlDeviceGetMemoryInfo=None))
    assert gpu.energy_j() is None
    assert gpu.used_mb() is None
    assert Meter(root=Path("/nowhere"), gpu=gpu).missing["gpu"] == "the GPU has no energy counter that NVML can read"


def test_the_gpu_of_nvml_is_the_one_that_cuda_calls_its_first(monkeypatch):
    api = NvmlDouble()
    api.nvmlDeviceGetHandleByPciBusId = lambda place: f"the GPU at {place.decode()}"
    monkeypatch.setattr(nvml, "pci_bus_id", lambda: "0000:65:00.0")
    assert Nvml(api)._gpu == "the GPU at 0000:65:00.0"


def test_a_driver_that_knows_only_the_older_name_tells_what_limits_the_clock():
    api = NvmlDouble(nvmlDeviceGetCurrentClocksEventReasons=None, nvmlDeviceGetCurrentClocksThrottleReasons=0x4)
    assert Nvml.open(api).throttled() == ["power cap"]


def test_one_failed_read_of_the_gpus_energy_is_no_energy_given_back():
    api = NvmlDouble()
    meter = Meter(root=Path("/nowhere"), gpu=Nvml.open(api))
    api.answers["nvmlDeviceGetTotalEnergyConsumption"] = None
    assert meter.read() == {"gpu": 5.0}


def test_nvml_that_does_not_start_is_a_reason():
    api = NvmlDouble()

    def refuse() -> None:
        raise api.NVMLError("Driver Not Loaded")

    api.nvmlInit = refuse
    assert Nvml.open(api) == "NVML does not start: Driver Not Loaded"


def rapl(root: Path, zone: str, name: str, micro: int) -> None:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{micro}\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")


def test_energy_is_summed_over_packages_and_memory_and_survives_the_counters_end(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    rapl(tmp_path, "intel-rapl:0:0", "core", 0)
    rapl(tmp_path, "intel-rapl:0:1", "dram", 0)
    meter = Meter(root=tmp_path)
    rapl(tmp_path, "intel-rapl:0", "package-0", 2_000_000)  # wrapped at 10 J: 3 J more
    rapl(tmp_path, "intel-rapl:0:0", "core", 2_000_000)  # inside the package: not counted twice
    rapl(tmp_path, "intel-rapl:0:1", "dram", 500_000)
    assert meter.read() == {"cpu": pytest.approx(3.5)}
    assert meter.missing == {}


def test_energy_that_cannot_be_read_has_a_reason(tmp_path):
    meter = Meter(root=tmp_path, gpu="nvidia-ml-py is not installed")
    assert meter.read() == {}
    assert "no RAPL counter" in meter.missing["cpu"]
    assert meter.missing["gpu"] == "nvidia-ml-py is not installed"
    rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("")
    assert "cannot be read" in Meter(root=tmp_path).missing["cpu"]


def test_the_gpus_energy_is_in_joules():
    assert Meter(root=Path("/nowhere"), gpu=Nvml.open(NvmlDouble())).read() == {"gpu": 5.0}
