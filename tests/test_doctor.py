from __future__ import annotations

import importlib.metadata
import json
from types import SimpleNamespace

import pytest

from tlopt import backends
from tlopt.backends import torch as torch_backend
from tlopt.cards.details import Gpu
from tlopt.cli import main
from tlopt.doctor import _cores, _versions, doctor
from tlopt.engine import flavour, gpu
from tlopt.engine.building.trial import try_build
from tlopt.errors import CheckError
from tlopt.process import cpu


@pytest.fixture(scope="module")
def report():
    return doctor()


@pytest.fixture
def installed(monkeypatch):
    """Let the installed packages be others."""

    def set_versions(**found: str) -> None:
        named = {name.replace("_", "-"): version for name, version in found.items()}

        def version(package: str) -> str:
            if package not in named:
                raise importlib.metadata.PackageNotFoundError(package)
            return named[package]

        parts = [SimpleNamespace(metadata={"Name": name}, version=version) for name, version in named.items()]
        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(importlib.metadata, "distributions", lambda: parts)

    return set_versions


def part(report, name):
    return next(row for row in report.rows if row["part"] == name)


def test_whatever_cannot_be_used_has_a_reason_and_a_way_to_mend_it(report):
    for row in report.rows:
        assert row["usable"] in ("yes", "no")
        if row["usable"] == "no":
            assert row["detail"]
            assert row["mend"]
    names = {row["part"] for row in report.rows}
    assert {"driver", "cuda", "cudnn", "onnxruntime:cuda", "tensorrt:cuda", "build:tensorrt", "versions"} <= names
    assert {"driver:pycuda", "driver:cuda-bindings"} <= names


@pytest.mark.skipif(bool(flavour.problem("rtx")), reason="TensorRT for RTX is not installed")
def test_tensorrt_for_rtx_really_builds_an_engine(report):
    built, problem = try_build("rtx")
    assert problem == ""
    assert " for sm80, sm86, sm89, sm120 in " in built
    assert part(report, "build:rtx")["usable"] == "yes"


@pytest.mark.skipif(gpu.gpu() is not None, reason="there is a GPU here")
def test_requiring_tensorrt_where_there_is_no_gpu_fails_with_exit_code_3(capsys):
    with pytest.raises(CheckError, match="tensorrt cannot be used here: "):
        doctor(require=("tensorrt",)).check()
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--require", "tensorrt", "--json"])
    assert left.value.code == 3
    shown = json.loads(capsys.readouterr().out)
    assert {row["part"]: row for row in shown["rows"]}["driver"]["usable"] == "no"


def test_libraries_that_overwrite_each_other_are_named_with_the_command_that_mends_it(installed):
    installed(onnxruntime="1.20", onnxruntime_gpu="1.20")
    (row,) = _versions()
    assert "onnxruntime and onnxruntime-gpu are installed together" in row["detail"]
    assert row["mend"] == (
        "python -m pip uninstall -y onnxruntime onnxruntime-gpu && python -m pip install onnxruntime-gpu"
    )


def test_a_library_outside_of_the_declared_range_is_named(installed, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["torch>=2.6", "openvino>=2025.0; extra == 'cpu'"])
    installed(torch="2.5.1", openvino="2026.1.0")
    (row,) = _versions()
    assert row["detail"] == "torch 2.5.1 is installed; tlopt needs torch>=2.6"
    assert row["mend"] == "python -m pip install 'torch>=2.6'"


def test_parts_of_tensorrt_of_different_versions_are_named(installed):
    installed(tensorrt_cu13_bindings="10.13.2.6", tensorrt_cu13_libs="10.12.0.36", torch="2.9")
    (row,) = _versions()
    assert "tensorrt-cu13-bindings 10.13.2.6, tensorrt-cu13-libs 10.12.0.36" in row["detail"]
    assert row["mend"] == "python -m pip install tensorrt-cu13-bindings==10.13.2.6 tensorrt-cu13-libs==10.13.2.6"


def test_parts_of_the_lean_runtime_of_different_versions_are_named(installed):
    installed(tensorrt_lean_cu13_bindings="11.4.0.106", tensorrt_lean_cu13_libs="11.3.0.99", torch="2.9")
    (row,) = _versions()
    assert "the parts of tensorrt-lean-cu13 are of different versions" in row["detail"]


def test_a_library_for_a_newer_cuda_than_the_drivers_is_named(installed, monkeypatch):
    import torch

    installed(torch="2.9")
    monkeypatch.setattr(gpu, "gpu", lambda: Gpu(name="NVIDIA L4", capability="sm89", driver_cuda="12.4"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(flavour, "installed", lambda *_, **__: False)
    (row,) = _versions()
    assert row["detail"] == "torch is built for CUDA 13.0; the driver knows CUDA up to 12.4"
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert [row["usable"] for row in _versions()] == ["yes"]


def test_torch_without_a_compiler_does_not_claim_to_compile(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert torch_backend.problem("cpu-compiled").partition("\n")[2] == "sudo apt-get install g++"
    assert torch_backend.problem("cpu") == ""


class _Driver:
    """Test double of libcuda that keeps a log and fails where it is told to."""

    def __init__(self, failing=""):
        self.failing, self.log = failing, []

    def __getattr__(self, name):
        def call(*arguments):
            if name == "cuGetErrorString":
                arguments[1]._obj.value = b"out of memory"
                return 0
            self.log.append(name)
            return 2 if name == self.failing else 0

        return call


@pytest.mark.parametrize("failing", ["", "cuMemAlloc_v2", "cuDevicePrimaryCtxRetain"])
def test_memory_is_tried_on_the_gpu_and_everything_given_back(monkeypatch, failing):
    driver = _Driver(failing)
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda _: driver)
    problem = gpu.allocation_problem()
    assert problem == (f"The NVIDIA driver refuses {failing}: out of memory." if failing else "")
    assert ("cuMemFree_v2" in driver.log) == (not failing)
    held = failing != "cuDevicePrimaryCtxRetain"
    assert ("cuDevicePrimaryCtxRelease_v2" in driver.log) == held
    assert driver.log.count("cuCtxPushCurrent_v2") == driver.log.count("cuCtxPopCurrent_v2") == held


@pytest.mark.parametrize("saturates", [True, False])
def test_integer_kernels_that_saturate_are_told(monkeypatch, saturates):
    monkeypatch.setattr(backends, "saturates", lambda _: saturates)
    row = part(doctor(), "onnxruntime:cpu")
    assert row["usable"] == "yes"
    assert ("half the range" in row["detail"]) is saturates


@pytest.mark.parametrize(
    ("variable", "value", "usable"),
    [
        ("GOMP_SPINCOUNT", "1000", "yes"),
        ("OMP_WAIT_POLICY", "PASSIVE", "yes"),
        ("GOMP_SPINCOUNT", "300000", "no"),
        ("GOMP_SPINCOUNT", "INFINITE", "no"),
        ("OMP_WAIT_POLICY", "ACTIVE", "no"),
    ],
)
def test_threads_that_spin_are_explained(variable, value, usable, monkeypatch):
    for name in cpu.CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    cores, sharing = _cores()
    assert cores["part"] == "cores"
    assert str(cores["detail"]).startswith(f"{cpu.cores()}: ")
    assert sharing["usable"] == usable
    assert f"{variable}={value}" in str(sharing["detail"])
    assert sharing["mend"] == ("" if usable == "yes" else "unset GOMP_SPINCOUNT OMP_WAIT_POLICY")


@pytest.mark.parametrize(("adapts", "usable"), [(True, "yes"), (False, "no")])
def test_threads_that_nobody_watches_are_explained(adapts, usable, monkeypatch):
    for name in cpu.CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu, "can_adapt", lambda: adapts)
    sharing = list(_cores())[1]
    assert sharing["usable"] == usable
    assert ("sleeps beside other programs" in str(sharing["detail"])) is adapts
    assert sharing["mend"] == ("" if adapts else "import tlopt before torch")
