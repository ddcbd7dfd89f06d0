"""What can be used on this machine, and why the rest cannot, found by trying it."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from tlopt import backends, registry
from tlopt.environment import cores, processor, versions, waiting
from tlopt.errors import MissingLibraryError, PluginError, suggestion
from tlopt.process import cpu
from tlopt.reports import Report, Scalar
from tlopt.settings import Setting, checked


@checked
def doctor(
    *,
    require: Annotated[
        tuple[str, ...] | None,
        Setting(
            "Parts that must work, such as onnxruntime:cuda or tensorrt. The command fails if one does not.",
            metavar="NAME,…",
        ),
    ] = None,
) -> Report:
    """Show what works on this machine and what is missing.

    Every part is tried. The backends run a small graph on each of their devices. The builders of
    TensorRT build a small engine. Each part that does not work has the command that repairs it.

    Raises:
        PluginError: A required name is unknown.
    """
    wanted = require or ()
    rows = [*_cuda(), *_backends(), *_builds(), *_targets(), *_cores(), *_versions()]
    usable = {str(row["part"]): row for row in rows}
    for row in rows:  # a backend's plain name stands for its default device
        usable.setdefault(str(row["part"]).partition(":")[0], row)
    for name in wanted:
        if name not in usable:
            raise PluginError(f"doctor does not know {name!r}.", hint=suggestion(name, usable))
    breaches = tuple(
        f"{name} cannot be used here: {usable[name]['detail']}" for name in wanted if usable[name]["usable"] != "yes"
    )
    return Report(
        title="What can be used here",
        rows=tuple(rows),
        conditions={"processor": processor(), "cores": cores(), "gpu": _gpu(), "versions": versions()},
        notes=breaches,
        breaches=breaches,
    )


def _cores() -> Iterator[dict[str, Scalar]]:
    """Yield the cores that may be used, and whether torch's threads share them with other programs."""
    quota = min(cpu.quotas(), default=None)
    limit = "all that the process may run on" if quota is None else f"a control group's quota is {quota:g}"
    yield _row("cores", "", detail=f"{cores()}: {limit}")
    set_to = waiting()
    problem = f"{set_to}: training is many times slower beside other programs" if cpu.spins() else ""
    yield _row("sharing cores", problem, detail=f"how torch's threads wait: {set_to}", mend=cpu.mend())


def _row(part: str, problem: str, *, mend: str = "", detail: str = "") -> dict[str, Scalar]:
    return {
        "part": part,
        "usable": "no" if problem else "yes",
        "detail": problem.rstrip(".") or detail,
        "mend": mend if problem else "",
    }


_DRIVER = "sudo ubuntu-drivers install, on a machine with an NVIDIA GPU"
_GPU_EXTRA = "python -m pip uninstall -y onnxruntime && python -m pip install 'tlopt[gpu]'"
_OLDEST_CUDNN = 9  # what ONNX Runtime 1.20 and newer, and torch 2.6 and newer, are built with


def _cuda() -> Iterator[dict[str, Scalar]]:
    """Yield the driver, memory on the GPU, and cuDNN."""
    from tlopt.engine import driver as drivers
    from tlopt.engine.gpu import allocation_problem, gpu, gpu_problem

    here = gpu()
    about = f"{here.name}, {here.capability}, up to CUDA {here.driver_cuda}" if here else ""
    yield _row("driver", gpu_problem(), detail=about, mend=_DRIVER)
    problem = allocation_problem()
    busy = "free memory on the GPU: nvidia-smi shows which process uses it"
    yield _row("cuda", problem, detail="1 MiB allocated on the GPU and freed", mend=busy if here else _DRIVER)
    for name in drivers.NAMES:
        problem, _, hint = drivers.problem(name).partition("\n")
        yield _row(f"driver:{name}", problem, detail="1 MiB allocated through it and freed", mend=hint or _DRIVER)
    version, problem = _cudnn()
    package = f"nvidia-cudnn-cu{here.driver_cuda.partition('.')[0]}" if here else "nvidia-cudnn-cu13"
    yield _row("cudnn", problem, detail=version, mend=f"python -m pip install '{package}>={_OLDEST_CUDNN}'")


def _cudnn() -> tuple[str, str]:
    """Return the version of cuDNN that loads here, and why none does."""
    names = [f"libcudnn.so.{_OLDEST_CUDNN}"]
    packages = importlib.util.find_spec("nvidia")
    for folder in (packages.submodule_search_locations or ()) if packages else ():
        names += [str(file) for file in sorted(Path(folder).glob("*/lib/libcudnn.so.*"))]
    for name in names:
        try:
            number = int(ctypes.CDLL(name).cudnnGetVersion())
        except (OSError, AttributeError):
            continue
        return f"cuDNN {number // 10000}.{number // 100 % 100}.{number % 100}", ""
    return "", f"libcudnn.so.{_OLDEST_CUDNN} does not load, neither from the system nor from a package"


def _backends() -> Iterator[dict[str, Scalar]]:
    for name in registry.names("backends"):
        try:
            module = registry.load("backends", name)
        except MissingLibraryError as error:
            yield _row(name, error.message, mend=error.hint)
            continue
        for device in module.DEVICES:
            problem, _, hint = module.problem(device).partition("\n")
            narrow = not problem and device == "cpu" and backends.saturates(name)
            detail = "int8 sums saturate on this processor: quantize keeps weights to half the range" if narrow else ""
            yield _row(f"{name}:{device}", problem, mend=hint or _mend(name, device, problem), detail=detail)


def _mend(backend: str, device: str, problem: str) -> str:
    """Return the command that brings a backend's device, where the backend itself works."""
    driverless = "driver" in problem
    if backend == "onnxruntime" and device == "openvino":
        return "python -m pip uninstall -y onnxruntime && python -m pip install onnxruntime-openvino"
    if backend == "onnxruntime":
        return _DRIVER if driverless else _GPU_EXTRA
    if backend == "openvino":
        npu = "install Intel's NPU driver, on a machine with an NPU"
        return (
            npu if device.startswith("npu") else "sudo apt-get install intel-opencl-icd, on a machine with an Intel GPU"
        )
    if backend == "torch" and "without CUDA" in problem:
        return "python -m pip install --force-reinstall torch (a build with CUDA)"
    return _DRIVER


def _builds() -> Iterator[dict[str, Scalar]]:
    """Yield what each kind of TensorRT says to building a small network."""
    from tlopt.engine.building.trial import try_build

    for name, extra in (("tensorrt", "gpu"), ("rtx", "rtx")):
        built, problem = try_build("rtx" if name == "rtx" else "tensorrt")
        problem, _, hint = problem.partition("\n")
        if "driver" in problem:
            hint = _DRIVER
        yield _row(f"build:{name}", problem, detail=built, mend=hint or f"python -m pip install 'tlopt[{extra}]'")


def _targets() -> Iterator[dict[str, Scalar]]:
    from tlopt.engine.building.targets import states
    from tlopt.engine.flavour import installed

    elsewhere = "tlopt build ARTIFACT -o OUT --target current, on a machine with that GPU"
    for state in states():
        detail = f"{state.about}; by {', '.join(state.flavours)}"
        mend = elsewhere if state.name == "current" or installed("rtx") else "python -m pip install 'tlopt[rtx]'"
        yield _row(f"target {state.name}", state.problem.partition("\n")[0], detail=detail, mend=mend)


def _gpu() -> str:
    """Return what the driver says about the GPUs, or why it says nothing."""
    if shutil.which("nvidia-smi") is None:
        return "none: no NVIDIA driver"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"the driver does not answer: {error}"
    return found.stdout.strip().replace("\n", "; ")


def _versions() -> Iterator[dict[str, Scalar]]:
    """Yield each combination of installed libraries that does not fit together, or one row if all do."""
    found = [*_overwriting(), *_too_old(), *_apart(), *_newer_than_the_driver()]
    if not found:
        yield _row("versions", "", detail="the installed libraries fit together")
    for number, (problem, mend) in enumerate(found):
        yield _row("versions" if number == 0 else f"versions:{number + 1}", problem, mend=mend)


_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


def _overwriting() -> Iterator[tuple[str, str]]:
    both = [name for name in _RUNTIMES if _version(name)]
    if len(both) > 1:
        keep = both[1]
        yield (
            f"{' and '.join(both)} are installed together; they overwrite one another's files",
            f"python -m pip uninstall -y {' '.join(both)} && python -m pip install {keep}",
        )


def _too_old() -> Iterator[tuple[str, str]]:
    """Yield the libraries outside of the ranges that this package declares, its extras' included."""
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires("tlopt") or []
    except importlib.metadata.PackageNotFoundError:
        return  # run from a source tree that is not installed
    for text in declared:
        requirement = Requirement(text)
        version = _version(requirement.name)
        if version and not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            yield (
                f"{requirement.name} {version} is installed; tlopt needs {wanted}",
                f"python -m pip install '{wanted}'",
            )


def _apart() -> Iterator[tuple[str, str]]:
    """Yield the parts of TensorRT whose versions differ: bindings load only the libraries of their own."""
    parts: dict[str, dict[str, str]] = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if found := re.fullmatch(r"(tensorrt(?:-rtx|-lean)?(?:-cu\d+)?)(?:-(?:bindings|libs))?", name):
            parts.setdefault(found[1], {})[name] = distribution.version
    for family, members in parts.items():
        if len(set(members.values())) > 1:
            listed = ", ".join(f"{name} {version}" for name, version in sorted(members.items()))
            newest = max(members.values(), key=lambda version: [int(part) for part in re.findall(r"\d+", version)])
            install = " ".join(f"{name}=={newest}" for name in sorted(members))
            yield f"the parts of {family} are of different versions: {listed}", f"python -m pip install {install}"


def _newer_than_the_driver() -> Iterator[tuple[str, str]]:
    """Yield the libraries built for a CUDA that the driver is too old for (a newer minor version is not)."""
    from tlopt.engine import flavour
    from tlopt.engine.gpu import gpu

    here = gpu()
    if here is None:
        return
    import torch

    built = {"torch": torch.version.cuda or ""}
    for kind in ("tensorrt", "rtx"):
        if flavour.installed(kind, to_run=True):
            built[flavour.TITLES[kind]] = flavour.load(kind, to_run=True).cuda
    for name, cuda in built.items():
        if cuda and int(cuda.partition(".")[0]) > int(here.driver_cuda.partition(".")[0]):
            yield f"{name} is built for CUDA {cuda}; the driver knows CUDA up to {here.driver_cuda}", _DRIVER


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
