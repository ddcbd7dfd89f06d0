"""Compiles the stand-in for libcuda.so.1, and speaks with it from a process that runs on it."""

import ctypes
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "driver"
COUNTED = ("device", "host", "streams", "events", "graphs", "executables", "retained", "current")


def compile_driver(folder: Path) -> Path:
    """Compile the stand-in into a folder for LD_LIBRARY_PATH, and return the folder.

    pycuda links against all functions of the driver. Those that the stand-in lacks say CUDA_ERROR_NOT_SUPPORTED.
    """
    library = folder / "libcuda.so.1"
    rest = folder / "rest.c"
    own = {name for file in SOURCES.glob("*.c") for name in re.findall(r"^Result (cu\w+)\(", file.read_text(), re.M)}
    lines = [f"int {name}(void) {{ return 801; }}" for name in sorted(_wanted_by_pycuda() - own)]
    rest.write_text("\n".join(["typedef int nothing;", *lines]) + "\n")
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    command += ["-Wl,-soname,libcuda.so.1", "-o", library, *sorted(SOURCES.glob("*.c")), rest, "-ldl"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def _wanted_by_pycuda() -> set[str]:
    found = importlib.util.find_spec("pycuda")
    places = list(found.submodule_search_locations or ()) if found else []
    libraries = [str(file) for place in places for file in Path(place).glob("_driver*.so")]
    if not libraries or shutil.which("nm") is None:
        return set()
    listed = subprocess.run(["nm", "-D", "--undefined-only", *libraries], capture_output=True, text=True, check=True)
    return set(re.findall(r"\bU (cu[A-Z]\w+)", listed.stdout))


class StandIn:
    """The stand-in that this process runs on."""

    def __init__(self):
        self._library = ctypes.CDLL("libcuda.so.1")

    def counts(self) -> dict[str, int]:
        """Return what is allocated, without what is 0. `current` counts this thread's contexts."""
        numbers = (ctypes.c_long * len(COUNTED))()
        self._library.stand_in_counts(numbers)
        return {name: number for name, number in zip(COUNTED, numbers, strict=True) if number}

    def fail(self, function: str, *, after: int = 0, result: int = 2) -> None:
        """Let one call of a function fail, after some that succeed."""
        self._library.stand_in_fail(function.encode(), after, result)

    def not_failed(self) -> bool:
        """Return whether the planned failure has not come, and forget it."""
        return bool(self._library.stand_in_not_failed())

    def limit(self, size: int) -> None:
        """Let all allocations together be no larger than this, bytes."""
        self._library.stand_in_limit(ctypes.c_size_t(size))
