"""What a deployment has of tlopt's own: decoding, class names, and the versions that it was made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlopt.deployment.excerpt import excerpt
from tlopt.deployment.job import Job
from tlopt.environment import versions
from tlopt.errors import ArtifactError, MissingLibraryError
from tlopt.reading.names import check_classes

DECODING = "decoding.py"
LABELS = "labels.txt"

_HEAD = '''"""How an image file becomes the input of this network, and its output probabilities.

tlopt {version} wrote this file from its own code: it computes the same, pixel for pixel. It needs NumPy and Pillow.
Licence of the code: Apache-2.0.

    image = read_image("image.jpg")             # a path, or an open binary file
    pixels = PREPROCESS.pixels(image)           # uint8 (size, size, 3), RGB
    inputs = PREPROCESS.normalize(pixels[None]) # what the network takes
    shares = probabilities(outputs, ANSWERS)    # float64 (n, classes)
"""
'''


# What a program for the command line needs beside the decoding: the images of a folder, names as they are shown, how it
# ends, and the most threads.
FOR_PROGRAMS = (
    ("tlopt.reading.image_files", "below"),
    ("tlopt.reading.names", "shown_name"),
    ("tlopt.deployment.programs.ending", "one_line"),
    ("tlopt.deployment.programs.ending", "exit_code"),
    ("tlopt.process.cpu", "MOST_THREADS"),
)


def decoding(job: Job, *more: tuple[str, str]) -> str:
    """Return the text of decoding.py: one file that needs NumPy, Pillow and Python 3.10.

    It has `PREPROCESS` and `ANSWERS` of the deployed graph, and `read_image` and `probabilities` of tlopt's.

    Args:
        job: The deployment.
        more: Other modules of tlopt's, and names defined in them, that it has, too.
    """
    code = excerpt(
        [
            ("tlopt.reading.image_files", "read_image"),
            ("tlopt.preprocess", "Preprocess"),
            ("tlopt.judging", "probabilities"),
            *more,
        ]
    )
    constants = f"\n\nPREPROCESS = {job.served!r}\nANSWERS: AnswerKind = {job.answers!r}\n"
    return _HEAD.format(version=versions().get("tlopt", "")) + "\n" + code + constants


def write_labels(folder: Path, classes: Sequence[str]) -> None:
    """Write labels.txt: a class a line, in the order of the logits."""
    (folder / LABELS).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


def check_labels(job: Job) -> None:
    """Check that the classes have names, and that each is one line.

    Raises:
        ArtifactError: There are none.
        ImagesError: A name cannot be written on a line.
    """
    if not job.classes:
        raise ArtifactError(
            f"{job.artifact.path} names no classes, and a deployment answers with their names.",
            hint="Make it again: tlopt import takes class names with --classes.",
        )
    check_classes(job.classes, job.artifact.path)


def requirements(*packages: str) -> str:
    """Return the text of requirements.txt: exact versions.

    Args:
        packages: Names, in the version that is installed here; or ``name==version`` as it is.

    Raises:
        MissingLibraryError: One is not installed.
    """
    return "".join(f"{package if '==' in package else f'{package}=={_installed(package)}'}\n" for package in packages)


# Distributions that bring the same module, in another build.
_BUILDS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}


def _installed(package: str) -> str:
    import importlib.metadata  # takes a while; help needs no versions

    for name in _BUILDS.get(package, (package,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise MissingLibraryError(
        f"{package} is not installed, so the version to deploy with is not known.",
        hint=f"python -m pip install {package}",
    )
