"""Images whose answers are known: what an artifact says about them is what its deployment has to say."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from tlopt import backends
from tlopt.artifact import Artifact
from tlopt.backends._logits import check_logits
from tlopt.deployment.job import Job
from tlopt.engine.running import opening
from tlopt.errors import CheckError, TloptError
from tlopt.measure.candidates import running
from tlopt.reading.image_files import read_image

# Largest difference of the logits, relative to their spread. In float32, sums taken in another order differ by about
# 1e-5; a graph that takes pixels may have its scaling fused into the first layer. In 8 and 16 bits, such a difference
# flips roundings, and each flip is a step of the format. Another resize or another order of channels is off by more.
_TOLERANCES = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2, "fp8": 1e-1, "int8": 5e-2}


def images(count: int = 3, seed: int = 0) -> dict[str, bytes]:
    """Return synthetic image files by name: PNG, JPEG turned by EXIF, and PNG with transparency, in turn.

    Args:
        count: How many.
        seed: Of their content and sizes.
    """
    random = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        picture, kind = _picture(random), number % 3
        stream = io.BytesIO()
        if kind == 0:
            picture.save(stream, "PNG", optimize=True)
        elif kind == 1:
            exif = Image.Exif()
            exif[0x0112] = int(random.integers(1, 9))
            picture.save(stream, "JPEG", quality=90, exif=exif)
        else:
            shade = np.linspace(0, 255, picture.width).astype(np.uint8)
            picture.putalpha(Image.fromarray(np.repeat(shade[None], picture.height, axis=0)))
            picture.save(stream, "PNG", optimize=True)
        found[f"reference-{number + 1}.{'jpg' if kind == 1 else 'png'}"] = stream.getvalue()
    return found


def _picture(random: np.random.Generator) -> Image.Image:
    """Return shapes on a shaded ground, of a random size."""
    width, height = (int(side) for side in random.integers(90, 400, 2))
    ramps = np.linspace(0, 1, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    ground = random.integers(0, 256, 3) * ramps + random.integers(0, 256, 3) * (1 - ramps)
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for number in range(12):
        x, y = int(random.integers(0, width)), int(random.integers(0, height))
        side = int(random.integers(8, 120))
        color = tuple(int(value) for value in random.integers(0, 256, 3))
        shape = (draw.ellipse, draw.rectangle)[number % 2]
        shape((x - side, y - side // 2, x + side, y + side // 2), fill=color)
    return picture


def pixels(job: Job, files: Mapping[str, bytes]) -> np.ndarray:
    """Return image files as pixels of the network's size: uint8 (n, size, size, 3), RGB."""
    return np.stack([job.preprocess.pixels(read_image(io.BytesIO(content))) for content in files.values()])


def answers(job: Job, files: Mapping[str, bytes]) -> np.ndarray:
    """Return what the artifact answers on image files, float32 (n, classes), as tlopt runs it.

    Raises:
        StageError: It cannot run here.
        ArtifactError: It has another number of answers than classes.
    """
    return answers_of(job.artifact, job.backend, job.preprocess.normalize(pixels(job, files)))


def answers_of(artifact: Artifact, backend: str, inputs: np.ndarray) -> np.ndarray:
    """Return what an artifact answers on inputs, float32 (n, classes)."""
    with backends.open_runner(artifact, backend) as runner, running(artifact, runner.name):
        return check_logits(runner(inputs), artifact, runner.name)


def compared(job: Job, wanted: np.ndarray, found: np.ndarray, what: str) -> tuple[float, float]:
    """Return the largest difference of logits relative to their spread, and the share of equal labels.

    Args:
        job: The deployment.
        wanted: The artifact's answers, float (n, classes).
        found: The deployment's, float (n, classes).
        what: What answered, for the error's message.

    Raises:
        CheckError: They differ by more than rounding explains.
    """
    if found.shape != wanted.shape:
        raise CheckError(
            f"{what} answers with logits of shape {found.shape}; the artifact answers with {wanted.shape}.", hint=_HINT
        )
    difference = float(np.abs(found - wanted).max() / max(float(wanted.std()), 1e-6))
    agreement = float((found.argmax(1) == wanted.argmax(1)).mean())
    limit = tolerance(job)
    if not difference <= limit:  # nor is a NaN
        raise CheckError(
            f"{what} answers otherwise than the artifact: logits differ by {difference:.2g} of their spread on "
            f"{len(wanted)} images, more than {limit:g}.",
            hint=_HINT,
        )
    return difference, agreement


def tolerance(job: Job) -> float:
    """Return the largest difference of the logits, relative to their spread, that rounding explains."""
    return _TOLERANCES[job.card.precision]


_HINT = "Nothing was written. Report it with the name of the model; --no-check writes it as it is."


def problem(job: Job) -> str:
    """Return why the artifact itself cannot answer here; empty if it can."""
    try:
        reason = str(backends.load(job.backend).problem(""))
        if job.kind == "tensorrt" and not reason:
            opening.check(job.artifact)
    except TloptError as error:
        return str(error).replace("\n", " ")
    return reason
