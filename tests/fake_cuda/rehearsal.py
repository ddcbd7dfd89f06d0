"""A machine with a GPU for benchmarks/gpu.py --rehearse: the stand-in for the driver, and doubles of TensorRT on it."""

import hashlib
import os
import sys
import tempfile
import time
import types
from dataclasses import replace
from pathlib import Path

import gpu_doubles
import numpy as np
import tiny_engine
from gpu_doubles import API
from PIL import Image
from stand_in import compile_driver

from tlopt.artifact import Artifact, seal
from tlopt.cards.card import plain
from tlopt.cards.details import EngineDetails
from tlopt.engine import flavour
from tlopt.publishing import draft
from tlopt.reading.schema import convert

_INSIDE = "TLOPT_REHEARSAL"
_VERSIONS = {"tensorrt": "10.13.2.6", "rtx": "1.7.1.116"}
_WATTS = 50


class _Nvml(types.ModuleType):
    """Test double of `pynvml`: a GPU that tells its energy alone, and draws 50 W whatever it does."""

    NVMLError = RuntimeError
    NVML_CLOCK_SM = NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self):  # noqa: N802 -- NVML's name
        """Start."""

    def nvmlDeviceGetHandleByPciBusId(self, place):  # noqa: N802
        return place

    def nvmlDeviceGetTotalEnergyConsumption(self, _gpu):  # noqa: N802
        return time.monotonic() * _WATTS * 1e3


def enter() -> None:
    """Start this process anew on the stand-in, unless it runs on it already; then let TensorRT be the double."""
    if _INSIDE not in os.environ:
        folder = compile_driver(Path(tempfile.mkdtemp(prefix="rehearsal-")))
        environment = {**os.environ, _INSIDE: str(folder), "LD_LIBRARY_PATH": str(folder)}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    API.nptype = staticmethod(lambda _: np.float32)
    gpu_doubles.CLASSES = 3  # as many as there are of `photos`
    doubles = {
        name: flavour.Flavour(name=name, version=version, cuda="13", api=API) for name, version in _VERSIONS.items()
    }
    flavour.load = lambda name, **_: doubles[name]
    sys.modules["pynvml"] = _Nvml("pynvml")


def build(
    network: Artifact,
    out: Path,
    *,
    opt_batch: int,
    max_batch: int,
    min_batch: int = 1,
    flavour: str = "tensorrt",
    **options,
) -> Artifact:
    """Write what `tlopt build` would: the plan is none, the card is whole."""
    content = hashlib.sha256(repr((network.digest, max_batch, options)).encode()).digest()
    preprocess = network.card.preprocess
    batches = {"min_batch": min_batch, "opt_batch": opt_batch, "max_batch": max_batch}
    file = network.payload(".onnx")
    details = {
        **tiny_engine._DETAILS,
        "flavour": flavour,
        "version": _VERSIONS[flavour],
        "profile": {
            **tiny_engine._DETAILS["profile"],
            "shape": list(preprocess.input_shape),
            "dtype": preprocess.input_dtype.name,
            **batches,
        },
        "options": {
            **batches,
            **{name: value for name, value in options.items() if name in ("refit", "strip_weights")},
        },
        "onnx": {
            "artifact": network.digest,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "path": os.path.relpath(file, out),
        },
    }
    with draft(out, force=True) as scratch:
        (scratch / "model.engine").write_bytes(content)
        seal(scratch, replace(network.card, kind="tensorrt", details=convert(details, EngineDetails)))
    made = Artifact.load(out)
    assert plain(made.card.engine)
    return made


def photos(folder: Path) -> Path:
    """Write 48 photos of noisy colors in three classes."""
    random = np.random.default_rng(0)
    for name, color in {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(16):
            pixels = np.clip(np.array(color) + random.normal(0, 40, (36, 44, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder
