"""CMake and a compiler: whether they can build the project here, and building it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tlopt.environment import cores
from tlopt.errors import StageError
from tlopt.process import temporary

PROJECT = Path(__file__).parent / "project"
PROGRAM = "classify"
_TOOLS = "apt-get install cmake g++ libjpeg-dev libpng-dev zlib1g-dev"
# Runtime -> what CMake names where it is missing, what that is, and how it comes here.
_BRINGS = {
    "onnxruntime": (
        "ONNXRUNTIME",
        "ONNX Runtime for C++",
        "Its Python package has no headers. apt-get install libonnxruntime-dev, or unpack a release for C++ and name "
        "its folder in CMAKE_PREFIX_PATH.",
    ),
    "openvino": ("OpenVINO|TBB", "OpenVINO", "python -m pip install openvino"),
    "tensorrt": ("TENSORRT|CUDA|nvcc", "TensorRT for C++ or CUDA", "Name their folders in CMAKE_PREFIX_PATH."),
}
_TELLING = re.compile(r"could not find|not found|no CMAKE_\w+ could|: (fatal )?error", re.IGNORECASE)
_LONGEST = 900  # seconds that a step may take before it counts as hanging


def problem(runtime: str) -> str:
    """Return why the project cannot be built here, found by letting CMake look; empty if it can.

    Args:
        runtime: "onnxruntime", "openvino" or "tensorrt".
    """
    if shutil.which("cmake") is None:
        return f"CMake is not installed: {_TOOLS}"
    with temporary.folder("build") as folder:
        done = _run(_configuring(PROJECT, folder, runtime))
    if not done.returncode:
        return ""
    reason = _reason(done)
    names, missing, mend = _BRINGS[runtime]
    if re.search(names, reason):
        return f"CMake does not find {missing}. {mend}"
    return f"CMake does not find all that the project needs ({reason}). {_TOOLS}"


def build(project: Path, folder: Path, runtime: str) -> Path:
    """Build a project and return the program.

    Args:
        project: With its CMakeLists.txt; nothing is written there.
        folder: Where to build.
        runtime: What runs the network.

    Raises:
        StageError: CMake or the compiler failed.
    """
    compiling = ["cmake", "--build", str(folder), "--target", PROGRAM, "--parallel", str(cores())]
    for command in (_configuring(project, folder, runtime), compiling):
        done = _run(command)
        if done.returncode:
            raise StageError(
                f"The C++ project does not build here: {_reason(done)}.", hint="--no-check writes it as it is."
            )
    return folder / PROGRAM


def _configuring(project: Path, folder: Path, runtime: str) -> list[str]:
    return ["cmake", "-S", str(project), "-B", str(folder), f"-DRUNTIME={runtime}", *_places(runtime)]


def _places(runtime: str) -> list[str]:
    """Return where CMake finds the runtime, if its Python package brings what C++ needs."""
    if runtime != "openvino":
        return []
    found = importlib.util.find_spec("openvino")
    places = found.submodule_search_locations if found else None
    return [f"-DOpenVINO_DIR={Path(place) / 'cmake'}" for place in places or ()][:1]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
            timeout=_LONGEST,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise StageError(f"{command[0]} did not end within {_LONGEST} seconds.") from error


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line that says what is wrong."""
    lines = [line.strip() for line in f"{done.stderr}\n{done.stdout}".splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)]
    return (telling or lines or ["it says nothing"])[0].rstrip(".:")
