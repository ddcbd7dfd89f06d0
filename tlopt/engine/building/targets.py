"""Which GPUs an engine can be built for here, decided before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlopt.cards.details import Gpu
from tlopt.engine import flavour as flavours
from tlopt.engine.flavour import Flavour, FlavourName
from tlopt.engine.gpu import gpu, gpu_problem
from tlopt.errors import MissingLibraryError, PluginError, SettingError, StageError, suggestion

# Compute capabilities of NVIDIA's GPUs since Turing (CUDA 13 Programming Guide, compute capabilities).
CAPABILITIES = {
    "sm75": "Turing: T4, RTX 20",
    "sm80": "Ampere: A100, A30",
    "sm86": "Ampere: A10, A40, RTX 30",
    "sm87": "Ampere: Jetson Orin",
    "sm89": "Ada: L4, L40, RTX 40",
    "sm90": "Hopper: H100, H200",
    "sm100": "Blackwell: B200, GB200",
    "sm103": "Blackwell: B300, GB300",
    "sm110": "Blackwell: Jetson Thor",
    "sm120": "Blackwell: RTX 50, RTX PRO",
    "sm121": "Blackwell: GB10",
}
AHEAD_OF_TIME = ("sm80", "sm86", "sm89", "sm120")

# Smallest compute capability whose tensor cores know the type (CUDA 13 Programming Guide).
_SMALLEST = {"bf16": 80, "fp8": 89}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to build with and for.

    Attributes:
        flavour: The kind of TensorRT.
        targets: Compute capabilities, smallest first.
        gpu: The GPU that the engine is timed on and built for; None if it is built ahead of time.
    """

    flavour: Flavour
    targets: tuple[str, ...]
    gpu: Gpu | None


@dataclass(frozen=True, kw_only=True)
class TargetState:
    """Whether a target can be built here, and if not, why; `about` names GPUs of it."""

    name: str
    about: str
    flavours: tuple[FlavourName, ...]
    problem: str


def plan(
    targets: tuple[str, ...], *, flavour: Literal["auto", "tensorrt", "rtx"] = "auto", precision: str = "fp32"
) -> Plan:
    """Decide what an engine is built with.

    Args:
        targets: Compute capabilities ("sm89"), or "current" for the GPU of this machine, or "auto":
            the GPU of this machine if there is one, else those of `AHEAD_OF_TIME` that compute in
            the precision.
        flavour: The kind of TensorRT, or "auto" for the one that can.
        precision: Of the network; some GPUs lack the newer types.

    Raises:
        PluginError: A target is unknown.
        SettingError: The targets cannot be combined.
        MissingLibraryError: The kind of TensorRT that is needed is not installed.
        StageError: The target cannot be built here.
    """
    names = check_names(targets)
    if names == ("auto",):
        names = _automatic(flavour, precision)
    chosen = _current(flavour) if names == ("current",) else _ahead(names, flavour)
    _refuse_precision(chosen.targets, precision)
    return chosen


def check_names(target: tuple[str, ...]) -> tuple[str, ...]:
    """Return targets as they are spelled here, each once.

    Raises:
        PluginError: One is unknown.
        SettingError: They cannot be combined.
    """
    names = tuple(dict.fromkeys(name.lower() for name in target))
    for name in names:
        if name not in ("auto", "current", *CAPABILITIES):
            raise PluginError(f"Unknown target {name!r}.", hint=suggestion(name, ("auto", "current", *CAPABILITIES)))
    for single in ("auto", "current"):
        if single in names and len(names) > 1:
            raise SettingError(f"The target {single!r} cannot be combined with others, got {', '.join(names)}.")
    return names


def _automatic(flavour: str, precision: str) -> tuple[str, ...]:
    """Return what "auto" stands for on this machine and for this precision."""
    here = gpu()
    usual = tuple(name for name in AHEAD_OF_TIME if int(name[2:]) >= _SMALLEST.get(precision, 0))
    if flavour == "tensorrt" or (flavour == "auto" and here is not None and flavours.installed("tensorrt")):
        return ("current",)
    if here is not None and here.capability in flavours.load("rtx").targets:
        return tuple(dict.fromkeys((*usual, here.capability)))
    return usual


def _current(flavour: str) -> Plan:
    here = gpu()
    if here is None:
        raise StageError(
            f"The target 'current' needs a GPU. {gpu_problem()}",
            hint=f"Build ahead of time with --target {','.join(AHEAD_OF_TIME)}, or build on the machine with the GPU.",
        )
    if flavour == "tensorrt" or (flavour == "auto" and flavours.installed("tensorrt")):
        return Plan(flavour=flavours.load("tensorrt"), targets=(here.capability,), gpu=here)
    if flavour == "rtx" or flavours.installed("rtx"):
        rtx = flavours.load("rtx")
        _refuse_unknown(rtx, here.capability)
        return Plan(flavour=rtx, targets=(here.capability,), gpu=here)
    raise MissingLibraryError(
        "No TensorRT is installed.", hint="python -m pip install 'tlopt[gpu]' on a machine with a GPU, or 'tlopt[rtx]'."
    )


def _ahead(names: tuple[str, ...], flavour: str) -> Plan:
    if flavour == "tensorrt":
        here = gpu()
        if here is not None and names == (here.capability,):
            return _current(flavour)
        found = f"the GPU here is {here.capability} ({here.name})" if here else gpu_problem()
        raise StageError(
            f"TensorRT builds only for the GPU it runs on: it cannot build for {', '.join(names)}; {found}",
            hint="Use --flavour rtx to build ahead of time, or build on a machine with that GPU.",
        )
    rtx = flavours.load("rtx")
    for name in names:
        _refuse_unknown(rtx, name)
    return Plan(flavour=rtx, targets=tuple(sorted(names, key=lambda name: int(name[2:]))), gpu=None)


def _refuse_unknown(rtx: Flavour, name: str) -> None:
    """Refuse a target that TensorRT for RTX does not know: it has none of the data centres' GPUs of sm90.

    Raises:
        StageError: The target is not among its own.
    """
    if name not in rtx.targets:
        raise StageError(
            f"{rtx.title} cannot build for {name} ({CAPABILITIES.get(name, 'unknown')}); it builds for "
            f"{', '.join(rtx.targets)}.",
            hint="Build on a machine with that GPU, with 'tlopt[gpu]' installed and --target current.",
        )


def _refuse_precision(names: tuple[str, ...], precision: str) -> None:
    smallest = _SMALLEST.get(precision, 0)
    for name in names:
        if int(name[2:]) < smallest:
            raise StageError(
                f"GPUs of {name} ({CAPABILITIES.get(name, 'unknown')}) do not compute in {precision}; "
                f"it needs sm{smallest} or newer.",
                hint="Leave that target out, or quantize to int8 or fp16.",
            )


def states() -> tuple[TargetState, ...]:
    """Return every known target and whether it can be built here, found by loading the libraries."""
    here = gpu()
    rtx = flavours.load("rtx") if flavours.installed("rtx") else None
    full = here is not None and flavours.installed("tensorrt")
    found = []
    for name in ("current", *CAPABILITIES):
        builders: list[FlavourName] = []
        if full and here is not None and name in ("current", here.capability):
            builders.append("tensorrt")
        if rtx is not None and (
            name in rtx.targets or (name == "current" and here is not None and here.capability in rtx.targets)
        ):
            builders.append("rtx")
        about = CAPABILITIES.get(name) or (here.name if here else "the GPU of this machine")
        found.append(
            TargetState(name=name, about=about, flavours=tuple(builders), problem="" if builders else _why_not(name))
        )
    return tuple(found)


def _why_not(name: str) -> str:
    if name == "current" and gpu() is None:
        return gpu_problem()
    missing = flavours.problem("rtx")
    if missing:
        return missing.replace("\n", " ")
    return f"{flavours.load('rtx').title} does not build for it; TensorRT does, on a machine with that GPU."
