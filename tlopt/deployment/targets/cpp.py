"""A C++ project that reads image files and prints classes, on ONNX Runtime, OpenVINO or TensorRT."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tlopt.deployment import reference, vendored
from tlopt.deployment.cpp import building, program
from tlopt.deployment.cpp.parameters import parameters
from tlopt.deployment.cpp.readme import readme
from tlopt.deployment.job import Checks, Input, Job, Written
from tlopt.environment import cores, versions
from tlopt.errors import ArtifactError, CheckError
from tlopt.process import temporary

BACKENDS = {"onnx": ("onnxruntime", "openvino"), "tensorrt": ("tensorrt",)}
INPUTS: tuple[Input, ...] = ("image",)
USES: frozenset[str] = frozenset()
SEVERAL = False

_MODEL = "model"
_IMAGES = 6  # of each kind of reference image, two


def examine(job: Job) -> None:
    """Refuse a network that takes other images than squares in color, cut out of their middle.

    Raises:
        ArtifactError: It does.
    """
    seen = job.preprocess
    if seen.fit != "crop" or seen.width not in (0, seen.size) or seen.channels == "grey":
        raise ArtifactError(
            f"{job.artifact.path} takes images this way: {seen.summary()}. The C++ project cuts squares in color.",
            hint="Deploy it with --for bundle.",
        )


def write(job: Job, folder: Path) -> Written:
    """Write the project: sources, the network, its classes and parameters, README.md."""
    runtimes = _runtimes(job)
    for file in _sources(runtimes):
        to = folder / file.relative_to(building.PROJECT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)
    model = folder / _MODEL
    model.mkdir()
    payload = job.artifact.payload(".onnx" if job.kind == "onnx" else ".engine").name
    for name in job.card.files if job.kind == "onnx" else (payload,):  # an ONNX file may keep its weights in others
        to = model / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job.artifact.path / name, to)
    (model / "parameters.txt").write_text(parameters(job, payload), encoding="utf-8")
    vendored.write_labels(model, job.classes)
    (folder / "README.md").write_text(readme(job, runtimes, _openvino()), encoding="utf-8")
    return Written(
        how=(f"cmake -B build -DRUNTIME={job.backend}", "cmake --build build", "build/classify IMAGE"),
        notes=("README.md has what each runtime needs.",),
    )


def problem(job: Job) -> str:
    """Return why the project cannot be built or run here; empty if it can."""
    return reference.problem(job) or building.problem(job.backend)


def check(job: Job, folder: Path) -> Checks:
    """Build the project in a temporary folder and compare pixels and answers with the artifact's.

    Raises:
        CheckError: They differ.
        StageError: It does not build, or the program fails.
    """
    files = reference.images(_IMAGES)
    wanted = reference.answers(job, files)
    with temporary.folder("check") as scratch:
        images = [scratch / name for name in files]
        for image, content in zip(images, files.values(), strict=True):
            image.write_bytes(content)
        compiled = building.build(folder, scratch / "build", job.backend)
        model = folder / _MODEL
        seen = program.pictures(program.run(compiled, ["--model", model, "--pixels", *images]))
        threads = str(cores())
        printed = program.run(compiled, ["--model", model, "--threads", threads, "--numbers", *images])
    identical = _compare_pixels(dict(zip(files, reference.pixels(job, files), strict=True)), seen)
    found = program.numbers(printed)
    difference, agreement = reference.compared(job, wanted, found, "The C++ program")
    return Checks(
        by=f"the C++ program, compiled here with {job.backend} {versions().get(job.backend, '')}".rstrip(),
        images=len(files),
        difference=difference,
        agreement=agreement,
        proves=(f"The pixels that the network sees are identical on {identical} of {len(files)} images.",),
        leaves_open=("Another version of libjpeg-turbo may decode some JPEG pixels otherwise.",),
    )


def _runtimes(job: Job) -> tuple[str, ...]:
    """Return what can run the network, the one that it is deployed for first."""
    return (job.backend, *(other for other in BACKENDS[job.kind] if other != job.backend))


def _sources(runtimes: tuple[str, ...]) -> list[Path]:
    files = (file for file in sorted(building.PROJECT.rglob("*")) if file.is_file())
    return [file for file in files if file.parent.name != "runtimes" or file.stem in runtimes]


def _openvino() -> str:
    version = versions().get("openvino")
    return f"openvino=={version}" if version else "openvino"


def _compare_pixels(wanted: dict[str, np.ndarray], found: list[np.ndarray]) -> int:
    """Return for how many images the pixels are identical.

    Raises:
        CheckError: They are not for a PNG file, which every decoder decodes alike.
    """
    same = {name: np.array_equal(pixels, other) for (name, pixels), other in zip(wanted.items(), found, strict=True)}
    if wrong := [name for name, equal in same.items() if not equal and name.endswith(".png")]:
        raise CheckError(
            f"The C++ program shows the network other pixels of {wrong[0]} than tlopt.",
            hint="Nothing was written. Report it with the version of Pillow; --no-check writes it as it is.",
        )
    return sum(same.values())
