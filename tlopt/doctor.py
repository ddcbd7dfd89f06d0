"""What can be used on this machine, and why the rest cannot, found by trying it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import Annotated

from tlopt import registry, settings
from tlopt.environment import cores, processor, versions
from tlopt.errors import MissingLibraryError, PluginError, suggestion
from tlopt.report import Report, Scalar
from tlopt.settings import Setting


def doctor(
    *,
    require: Annotated[
        tuple[str, ...] | None,
        Setting("Fail unless these can be used (onnxruntime:cuda, tensorrt, …).", metavar="NAME,…"),
    ] = None,
) -> Report:
    """Show what can be used here and what is missing for the rest, by trying each.

    Every backend runs a small graph on each of its devices; every engine target is asked of the
    builder. With `require`, the report carries a breach for each name that cannot be used.

    Raises:
        PluginError: A required name is unknown.
    """
    wanted = settings.check(doctor, {"require": require})["require"] or ()
    rows = [*_backends(), *_targets()]
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
        notes=(*_disagreements(), *breaches),
        breaches=breaches,
    )


def _row(part: str, problem: str, *, fix: str = "", detail: str = "") -> dict[str, Scalar]:
    return {
        "part": part,
        "usable": "no" if problem else "yes",
        "detail": problem or detail,
        "mend": fix if problem else "",
    }


def _backends() -> Iterator[dict[str, Scalar]]:
    for name in registry.names("backends"):
        try:
            module = registry.load("backends", name)
        except MissingLibraryError as error:
            yield _row(name, error.message, fix=error.hint)
            continue
        for device in module.DEVICES:
            problem = module.problem(device).partition("\n")
            yield _row(f"{name}:{device}", problem[0].rstrip("."), fix=problem[2] or _FIXES.get(f"{name}:{device}", ""))


# What brings a backend's device, where the backend itself works.
_FIXES = {
    "onnxruntime:cuda": "python -m pip install 'tlopt[gpu]', on a machine with a GPU",
    "onnxruntime:tensorrt": "python -m pip install 'tlopt[gpu]', on a machine with a GPU",
    "onnxruntime:openvino": "python -m pip install onnxruntime-openvino, in place of onnxruntime",
    "torch:cuda": "install a CUDA build of torch, on a machine with a GPU",
    "tensorrt:cuda-graphs": "use a machine with an NVIDIA GPU and its driver",
    "tensorrt:cuda": "use a machine with an NVIDIA GPU and its driver; engines can be built here all the same",
}


def _targets() -> Iterator[dict[str, Scalar]]:
    from tlopt.engine.targets import states

    for state in states():
        detail = f"{state.about}; by {', '.join(state.flavours)}"
        yield _row(f"target {state.name}", state.problem.partition("\n")[0], detail=detail)


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


def _disagreements() -> Iterator[str]:
    """Yield the combinations of installed libraries that are known not to work together."""
    found = versions()
    if "onnxruntime" in found and "onnxruntime-gpu" in found:
        yield (
            "onnxruntime and onnxruntime-gpu are both installed; they overwrite one another. "
            "Remove both, then install one: python -m pip uninstall -y onnxruntime onnxruntime-gpu"
        )
