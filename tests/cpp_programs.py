"""The C++ program of the target cpp, compiled once for all tests of a run, whatever process they are in."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

import tlopt.deployment.cpp.building as building
from tlopt.deployment.job import Job

STUBS = Path(__file__).parent / "deployment" / "stubs"
# Debian's package has them; tests/deployment/headers.sh fetches it where it is not to be installed.
HEADERS = Path(__file__).parents[1] / "build" / "onnxruntime" / "include"


def shared(factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of a run of the tests have in common."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-gw") else base


def program(factory: pytest.TempPathFactory, runtime: str) -> Path:
    """Return the program for a runtime; skip the test where it cannot be built."""
    folder = shared(factory) / f"cpp-{runtime}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = folder / "build" / building.PROGRAM
        if not found.exists():
            _compile(folder, runtime)
    return found


def _compile(folder: Path, runtime: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # One is built as a user builds it; the others, whose sources are the same but for one, are compiled faster.
        optimized = "" if runtime == "openvino" else "-O0"
        patch.setenv("CXXFLAGS", f"-Wall -Wextra -Wconversion -Wshadow -Werror {optimized}")
        patch.setenv("CMAKE_BUILD_TYPE", "Release" if runtime == "openvino" else "None")
        if runtime == "tensorrt":
            _compile_with_stand_in(folder)
            return
        if runtime == "onnxruntime":
            patch.setenv("CMAKE_PREFIX_PATH", str(_onnxruntime(folder)))
        if reason := building.problem(runtime):
            pytest.skip(reason)
        building.build(building.PROJECT, folder / "build", runtime)


def _onnxruntime(folder: Path) -> Path:
    """Put headers and the library of the Python package together, as a release for C++ has them."""
    capi = Path(pytest.importorskip("onnxruntime").__file__).parent / "capi"
    places = (HEADERS, Path("/usr/include/onnxruntime"))
    headers = next((place for place in places if (place / "onnxruntime_cxx_api.h").exists()), None)
    if headers is None:
        pytest.skip("there are no C++ headers of ONNX Runtime; make cpp-headers fetches them")
    libraries = list(capi.glob("libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("the Python package of ONNX Runtime has no library to link with")
    root = folder / "onnxruntime"
    (root / "lib").mkdir(parents=True, exist_ok=True)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "lib" / name).unlink(missing_ok=True)
        (root / "lib" / name).symlink_to(libraries[0])
    if not (root / "include").exists():
        (root / "include").symlink_to(headers)
    return root


def _compile_with_stand_in(folder: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("cmake") is None:
        pytest.skip("there is no g++ or no CMake to compile the stand-in for TensorRT with")
    root = folder / "tensorrt"
    (root / "lib").mkdir(parents=True, exist_ok=True)
    if not (root / "include").exists():
        (root / "include").symlink_to(STUBS / "include")
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I", root / "include"]
    done = _run(compiler, *flags, "-o", root / "lib" / "libnvinfer.so", STUBS / "standin.cpp")
    assert not done.returncode, done.stderr
    places = f"-DTENSORRT_ROOT={root}", f"-DCMAKE_MODULE_PATH={STUBS / 'cmake'}"
    configured = _run("cmake", "-S", building.PROJECT, "-B", folder / "build", "-DRUNTIME=tensorrt", *places)
    if "Could NOT find" in configured.stderr:
        pytest.skip(f"the C++ program cannot be built here: {configured.stderr.strip()}")
    assert not configured.returncode, configured.stderr
    built = _run("cmake", "--build", folder / "build", "--parallel", "2")
    assert not built.returncode, built.stdout + built.stderr


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def said(program: Path, *arguments: str | Path) -> tuple[int, bytes, str]:
    """Run the program; return its exit code, what it printed, and its errors."""
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


def job(artifact, backend: str) -> Job:
    """Return a deployment of an artifact."""
    return Job(artifacts=(artifact,), target="cpp", name="tiny", backend=backend, input="image", max_batch=1)
