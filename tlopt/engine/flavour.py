"""The two kinds of TensorRT, `tensorrt` and TensorRT for RTX, loaded and told apart in one place."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tlopt import registry
from tlopt.engine.messages import Messages
from tlopt.errors import MissingLibraryError, StageError

FlavourName = Literal["tensorrt", "rtx"]

TITLES: dict[str, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}

# The oldest whose networks are strongly typed throughout as this package needs them.
_OLDEST = {"tensorrt": (10, 12), "rtx": (1, 0)}


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One kind of TensorRT, loaded.

    Attributes:
        name: "tensorrt" or "rtx".
        version: The library's own ("10.13.2.6").
        cuda: CUDA major version that it was built for ("13"), empty if its package does not say.
        api: The Python module. Both kinds have the same classes; what differs is asked for here.
        lean: It is the lean runtime of `tensorrt`: it opens version-compatible engines and builds none.
    """

    name: FlavourName
    version: str
    cuda: str
    api: Any
    lean: bool = False

    @property
    def title(self) -> str:
        """Name and version for messages ("TensorRT for RTX 1.7.1.116")."""
        return f"{TITLES[self.name]}{' (lean runtime)' * self.lean} {self.version}"

    @property
    def version_parts(self) -> tuple[int, ...]:
        """The version as numbers that can be compared."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version))

    @property
    def targets(self) -> tuple[str, ...]:
        """Compute capabilities that it builds for ahead of time; `tensorrt` has none."""
        known = getattr(self.api, "ComputeCapability", None)
        if self.name != "rtx" or known is None:
            return ()
        found = [name.lower() for name in known.__members__ if re.fullmatch(r"SM\d+", name)]
        return tuple(sorted(found, key=lambda name: int(name[2:])))

    def make(self, kind: Literal["Builder", "Runtime"], messages: Messages) -> Any:
        """Make one of the library's two entry points.

        Raises:
            StageError: It does not start: the driver is missing or too old, say.
        """
        try:
            return getattr(self.api, kind)(messages.logger)
        except TypeError as error:  # what pybind11 raises where the library returns nothing
            raise StageError(
                f"{self.title} does not start: {messages.last() or error}", hint="tlopt doctor says what is missing."
            ) from error


@functools.cache
def load(name: FlavourName, *, to_run: bool = False) -> Flavour:
    """Import one kind of TensorRT.

    Args:
        name: Which.
        to_run: The lean runtime will do where `tensorrt` itself is not installed.

    Raises:
        MissingLibraryError: It, or a library that it needs, is not installed, or it is too old.
    """
    module = _import_rtx() if name == "rtx" else _tensorrt(to_run=to_run)
    try:
        api = registry.require(module)
    except MissingLibraryError:
        raise
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingLibraryError(
            f"{TITLES[name]} is installed but does not load: {error}", hint="tlopt doctor says what is wrong."
        ) from error
    version = str(api.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST[name]:
        oldest = ".".join(map(str, _OLDEST[name]))
        raise MissingLibraryError(
            f"{TITLES[name]} {version} is too old; tlopt needs {oldest} or newer.",
            hint=f"python -m pip install --upgrade 'tlopt[{'rtx' if name == 'rtx' else 'gpu'}]'",
        )
    return Flavour(name=name, version=version, cuda=_cuda(module), api=api, lean="lean" in module)


def installed(name: FlavourName, *, to_run: bool = False) -> bool:
    """Return whether a kind of TensorRT loads here; see `load`."""
    return not problem(name, to_run=to_run)


def problem(name: FlavourName, *, to_run: bool = False) -> str:
    """Return why a kind of TensorRT does not load here, found by loading it; empty if it does. See `load`."""
    try:
        load(name, to_run=to_run)
    except MissingLibraryError as error:
        return str(error)
    return ""


def _tensorrt(*, to_run: bool) -> str:
    """Return the module of `tensorrt`. That of the lean runtime has two names: of its package and of its bindings."""
    names = ("tensorrt", *(("tensorrt_lean", "tensorrt_lean_bindings") if to_run else ()))
    found: str = next((name for name in names if importlib.util.find_spec(name) is not None), names[0])
    return found


def _import_rtx() -> str:
    """Make the libraries of TensorRT for RTX loadable and return the module to import.

    NVIDIA's own distribution brings its libraries along. The bindings on PyPI come without; the
    libraries are those of ONNX Runtime's plug-in, which must be in the process before the import.
    """
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        return "tensorrt_rtx"
    module = "tensorrt_rtx_bindings"
    if importlib.util.find_spec(module) is None or importlib.util.find_spec("tensorrt_rtx_libs") is not None:
        return module
    plugin = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if plugin is None or plugin.origin is None:
        raise MissingLibraryError(
            "tensorrt_rtx_bindings is installed without the libraries it binds.",
            hint="python -m pip install 'tlopt[rtx]'",
        )
    folder = Path(plugin.origin).parent
    for pattern in ("libtensorrt_rtx.so*", "libtensorrt_onnxparser_rtx.so*"):
        for library in sorted(folder.glob(pattern)):
            try:
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise MissingLibraryError(
                    f"{library} does not load: {error}", hint="python -m pip install --force-reinstall 'tlopt[rtx]'"
                ) from error
    return module


def _cuda(module: str) -> str:
    """Return the CUDA major version in the names of the packages that supply a module."""
    import importlib.metadata

    packages = importlib.metadata.packages_distributions()
    for name in (module, "tensorrt_bindings", "tensorrt_lean_bindings", "tensorrt_rtx_bindings"):
        for package in packages.get(name, []) if name.startswith(module.partition("_")[0]) else []:
            if found := re.search(r"cu(\d+)", package):
                return found[1]
    return ""
