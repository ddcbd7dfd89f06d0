"""Where the server is: in a Python environment of its own, beside tlopt's or in a folder that is named."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tlopt.environment import versions
from tlopt.errors import MissingLibraryError
from tlopt.reading.files import real_path

# What the environment holds. The wheel has tritonserver and its Python backend; NumPy stays below 2 because of it.
_SERVER = "nvidia-pytriton==0.7.0"
_ALIKE = ("onnxruntime", "openvino", "pillow")  # in the versions that tlopt itself runs with
INSIDE = Path(__file__).with_name("inside")
_WHEEL = Path("pytriton") / "tritonserver"  # what the wheel puts into the folder of packages
_PYTHONS = "Python 3.8 to 3.12"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A Python environment with tritonserver in it.

    Args:
        folder: Its folder.
        python: Its Python.
        packages: Its folder of packages.
        stub: The program that runs Python models in this version of Python.
    """

    folder: Path
    python: Path
    packages: Path
    stub: Path

    @property
    def tritonserver(self) -> Path:
        """The server's program."""
        return self._wheel / "bin" / "tritonserver"

    @property
    def python_backend(self) -> Path:
        """The folder of the Python backend, without its stub."""
        return self._wheel / "backends" / "python"

    @property
    def libraries(self) -> Path:
        """The folder of the shared libraries that came with the server."""
        return self.packages / "nvidia_pytriton.libs"

    @property
    def _wheel(self) -> Path:
        return self.packages / _WHEEL

    def version(self, package: str) -> str:
        """Return the version of a package in it, empty if it is not there."""
        wanted = package.replace("-", "_").lower()
        for found in self.packages.glob("*.dist-info"):
            name, _, version = found.name.removesuffix(".dist-info").rpartition("-")
            if name.replace("-", "_").lower() == wanted:
                return version
        return ""


def usual_place() -> Path:
    """Return where the environment is looked for: in the folder ``serve`` of the environment that tlopt runs in."""
    return Path(sys.prefix) / "serve"


def find(folder: Path | None = None) -> Environment:
    """Return the environment with the server.

    The current folder, PATH and variables are not looked at.

    Args:
        folder: The environment; None for its usual place.

    Raises:
        MissingLibraryError: There is none, or it lacks the server.
    """
    place = real_path(folder) if folder is not None else usual_place()
    packages = sorted(place.glob("lib/python3.*/site-packages"))
    python = place / "bin" / "python"
    if not packages or not python.exists():
        what = "There is no Python environment" if folder is not None else "The server's environment is not there:"
        raise MissingLibraryError(f"{what} {'in ' if folder is not None else ''}{place}.", hint=installing(place))
    version = packages[-1].parent.name.removeprefix("python")
    stub = packages[-1] / _WHEEL / "python_backend_stubs" / version / "triton_python_backend_stub"
    found = Environment(folder=place, python=python, packages=packages[-1], stub=stub)
    if not found.tritonserver.is_file():
        raise MissingLibraryError(f"{place} holds no tritonserver.", hint=installing(place))
    if not found.stub.is_file():
        raise MissingLibraryError(
            f"The tritonserver in {place} runs no models in Python {version}.",
            hint=f"Make the environment with another Python: it takes {_PYTHONS}.",
        )
    return found


def installing(place: Path) -> str:
    """Return the command that makes the environment at a place."""
    python = f"python{sys.version_info.major}.{min(sys.version_info.minor, 12)}"
    here, pip = shlex.quote(str(place)), shlex.quote(str(place / "bin" / "python"))
    return f"{python} -m venv {here} && {pip} -m pip install {' '.join([_SERVER, *map(_pinned, _ALIKE)])}"


def _pinned(package: str) -> str:
    version = versions().get(package)
    return f"{package}=={version}" if version else package


def problem(folder: Path | None = None) -> str:
    """Return why there is no server here, with the command that brings it; empty if there is one."""
    try:
        find(folder)
    except MissingLibraryError as error:
        return f"{error.message} {error.hint}"
    return ""
