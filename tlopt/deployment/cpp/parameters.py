"""parameters.txt: all that the C++ program has to know about a network."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image

from tlopt.deployment.job import Job

_HEAD = "# How images become the network's input, and what its numbers mean. Read by src/parameters.cpp.\n"


def parameters(job: Job, model: str) -> str:
    """Return the text of parameters.txt.

    Args:
        job: The deployment.
        model: Name of the network's file, which lies beside it.
    """
    served = job.served
    scale, shift = served.affine()
    found: dict[str, object] = {
        "model": model,
        "answers": job.answers,
        "size": served.size,
        "side": math.floor(served.size / served.crop_ratio),
        "interpolation": served.interpolation,
        "columns_first_if_tall": int(columns_first_if_tall()),
        "channels_last": int(served.layout == "nhwc"),
        "bgr": int(served.channels == "bgr"),
        "takes_pixels": int(served.folded),
        "scale": _exact(scale),
        "shift": _exact(shift),
        "batch": _batch(job),
        "keep_float32": int(job.card.precision in ("fp32", "int8")),
        "integer_kernels": int(job.card.made_for != "tensorrt"),
        "engine_code": int(job.kind == "tensorrt" and job.card.engine.options.version_compatible),
    }
    return _HEAD + "".join(f"{name} {value}\n" for name, value in found.items())


@functools.cache
def columns_first_if_tall() -> bool:
    """Return whether the Pillow here resizes the columns of a tall image before its rows, found by trying.

    Each of the two passes rounds, so their order changes pixels by a step of 255. It changed with Pillow 13.
    """
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (64, 16, 3), np.uint8))
    wide, high = 12, 8
    both = np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC))
    columns = image.resize((image.width, high), Image.Resampling.BICUBIC)
    return np.array_equal(both, np.asarray(columns.resize((wide, high), Image.Resampling.BICUBIC)))


def _exact(values: Iterable[float]) -> str:
    """Return float32 numbers in so many digits that the same numbers are read."""
    return " ".join(f"{float(value):.9g}" for value in values)


def _batch(job: Job) -> int:
    """Return the smallest number of images that a run takes."""
    return job.card.engine.profile.min_batch if job.kind == "tensorrt" else job.fixed_batch or 1
