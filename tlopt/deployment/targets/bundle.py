"""A folder, and the same as .tar.gz, that classifies images with NumPy, Pillow and one runtime."""

from __future__ import annotations

import gzip
import importlib.resources
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from tlopt.cards.details import EngineDetails
from tlopt.deployment import docker, kserve, reference, vendored
from tlopt.deployment.job import Checks, Input, Job, Written
from tlopt.engine.flavour import TITLES
from tlopt.errors import CheckError
from tlopt.process.children import ended
from tlopt.reading import files

BACKENDS = {"onnx": ("onnxruntime", "openvino"), "tensorrt": ("tensorrt",)}
INPUTS: tuple[Input, ...] = ("image",)
USES = frozenset({"max_batch"})
SEVERAL = False

# Parts of packages that serve to build something with them, not to run a network.
_UNNEEDED = {
    "onnxruntime": ("onnxruntime/quantization", "onnxruntime/tools", "onnxruntime/transformers"),
    "openvino": ("openvino/include",),
}
_CHECK_SECONDS = 600  # for a check that hangs
# What the check keeps from being imported, as on a machine without them.
_RUN = """\
import runpy, sys
sys.modules.update(dict.fromkeys(("tlopt", "torch", "onnx", "timm")))
sys.argv = ["predict.py", "--self-check", "--json"]
runpy.run_path("predict.py", run_name="__main__")
"""
_README = """\
# {name}

{classes} classes, {precision}, run by {runtime}. It takes JPEG, PNG, WebP and other image files of any size.

    python -m pip install -r requirements.txt
    python predict.py --self-check
    python predict.py IMAGE

As a container:

    docker build -t {tag} .
    docker run --rm {gpu}{tag}
    docker run --rm {gpu}-v "$PWD:/images:ro" {tag} /images

From Python, with this folder on the search path:

    from predict import Classifier
    Classifier().classify(["image.jpg"])

- `model{suffix}`: the network. `labels.txt`: its classes, in the order of its answers.
- `decoding.py`: how a file becomes the network's input. It is tlopt's own code: another resize or another order of
  channels changes answers.
- `predict.py`, `runtime.py`: the program. `network.json`: its settings.
- `selfcheck/`: three images, and what the network has to answer. They are drawn, not photographed.
- `requirements.txt`: the versions that this was checked with, on Python {python}.
{mlflow}"""
_MLFLOW = "- `MLmodel`: for MLflow, whose `mlflow.onnx.load_model` reads this folder.\n"


def examine(job: Job) -> None:
    """Refuse a bundle whose packages have no known version."""
    vendored.requirements(*_packages(job))


def write(job: Job, folder: Path) -> Written:
    """Write the network, the program and its self-check."""
    suffix = ".engine" if job.kind == "tensorrt" else ".onnx"
    if job.kind == "tensorrt":
        data = files.read_bytes(job.artifact.payload(suffix), limit=files.TABLE_LIMIT)
        (folder / f"model{suffix}").write_bytes(data)
    else:
        import onnx

        onnx.save(job.graph, folder / f"model{suffix}")
    programs = importlib.resources.files("tlopt.deployment.programs")
    for source, name in (("predict.py", "predict.py"), (f"run_with_{job.backend}.py", "runtime.py")):
        (folder / name).write_text((programs / source).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / vendored.DECODING).write_text(vendored.decoding(job, *vendored.FOR_PROGRAMS), encoding="utf-8")
    vendored.write_labels(folder, job.classes)
    (folder / "requirements.txt").write_text(vendored.requirements(*_packages(job)), encoding="utf-8")
    _write_json(folder / "network.json", _network(job, suffix))
    _write_self_check(job, folder / "selfcheck")
    own = [f"model{suffix}", "network.json", vendored.LABELS, "predict.py", "runtime.py", vendored.DECODING]
    engine = job.kind == "tensorrt"
    text = docker.program(
        files=own, folders=["selfcheck"], run=("python", "predict.py"), check=["--self-check"],
        modules=["numpy", job.backend], unneeded=("numpy/f2py", *_UNNEEDED.get(job.backend, ())), tried=not engine,
        environment={"ORT_DISABLE_TELEMETRY": "1"} if job.backend == "onnxruntime" else {},
    )  # fmt: skip
    (folder / "Dockerfile").write_text(text, encoding="utf-8")
    ignored = "".join(f"!{name}\n" for name in [*own, "selfcheck", "requirements.txt"])
    (folder / ".dockerignore").write_text(f"*\n{ignored}", encoding="utf-8")
    if job.kind == "onnx":
        (folder / "MLmodel").write_text(_mlmodel(job), encoding="utf-8")
    (folder / "README.md").write_text(_readme(job, suffix), encoding="utf-8")
    archive = _archive(folder, job.name)
    return Written(
        container=docker.python_image(),
        how=("python -m pip install -r requirements.txt", "python predict.py --self-check", "python predict.py IMAGE"),
        notes=(f"{archive} holds the same files.",),
    )


def problem(job: Job) -> str:
    """Return why the artifact cannot answer here."""
    return reference.problem(job)


def check(job: Job, folder: Path) -> Checks:
    """Run the program in a process that has neither tlopt nor torch, and compare its answers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [sys.executable, "-s", "-B", "-c", _RUN],
            cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=_CHECK_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"The bundle's program did not end within {_CHECK_SECONDS} seconds.") from error
    said = _said(done.stdout)
    if "logits" not in said:
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise CheckError(f"The bundle's program {ended(done.returncode)}: {last}")
    wanted = np.array(json.loads((folder / "selfcheck" / "expected.json").read_text())["logits"], np.float32)
    found = np.array(said["logits"], np.float32)
    difference, agreement = reference.compared(job, wanted, found, "The bundle's program")
    return Checks(
        by=f"predict.py with {_packages(job)[0]}",
        images=len(found),
        difference=difference,
        agreement=agreement,
        proves=("The program answers as the artifact does, in a process without tlopt and torch.",),
        leaves_open=("Whether requirements.txt installs where it will run, and the container, were not tried.",),
    )


def _said(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _packages(job: Job) -> tuple[str, ...]:
    """Return what requirements.txt names, the runtime first."""
    if isinstance(job.card.details, EngineDetails):
        built = job.card.details
        if built.flavour == "rtx":
            runtime = [f"tensorrt-rtx-cu13-bindings=={built.version}", "onnxruntime-ep-nv-tensorrt-rtx-cu13"]
        else:
            runtime = [f"tensorrt=={built.version}"]
        return (*runtime, "cuda-bindings", "numpy", "pillow")
    return (job.backend, "numpy", "pillow")


def _network(job: Job, suffix: str) -> dict[str, Any]:
    """Return what network.json says: the file, how it is run, and how many images a run takes."""
    settings: dict[str, Any]
    if isinstance(job.card.details, EngineDetails):
        built = job.card.details
        settings = {
            "flavour": built.flavour, "version": built.version, "targets": list(built.targets),
            "version_compatible": built.options.version_compatible,
            "input": built.profile.input, "output": built.profile.output,
        }  # fmt: skip
        fixed = built.profile.min_batch
    else:
        settings, fixed = runtime_settings(job), job.fixed_batch
    return {
        "name": job.name, "digest": job.artifact.digest, "file": f"model{suffix}", "max_batch": job.max_batch,
        "fixed_batch": fixed, "settings": settings,
    }  # fmt: skip


def runtime_settings(job: Job) -> dict[str, Any]:
    """Return what an ONNX artifact's runtime is told, as tlopt's own runners tell it."""
    if job.backend == "openvino":
        # OpenVINO computes in bf16 by itself where that is faster; then it is not the precision that was measured.
        exact = {"INFERENCE_PRECISION_HINT": "f32"} if job.card.precision in ("fp32", "int8") else {}
        return {"PERFORMANCE_HINT": "LATENCY", **exact}
    settings = {"session.force_spinning_stop": "1"}
    return settings | ({"session.disable_quant_qdq": "1"} if job.card.made_for == "tensorrt" else {})


def _write_self_check(job: Job, folder: Path) -> None:
    folder.mkdir()
    pictures = reference.images()
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    known = not reference.problem(job)
    expected = {
        "images": list(pictures),
        "logits": reference.answers(job, pictures).tolist() if known else None,
        "tolerance": reference.tolerance(job),
    }
    _write_json(folder / "expected.json", expected)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _readme(job: Job, suffix: str) -> str:
    name = TITLES[job.card.engine.flavour] if job.kind == "tensorrt" else job.backend
    return _README.format(
        name=job.name, classes=len(job.classes), precision=job.card.precision, runtime=name, suffix=suffix,
        tag=kserve.label(job.name), gpu="--gpus all " if job.kind == "tensorrt" else "",
        python=docker.python_image().partition(":")[2].removesuffix("-slim"),
        mlflow=_MLFLOW if job.kind == "onnx" else "",
    )  # fmt: skip


def _mlmodel(job: Job) -> str:
    """Return the text of MLmodel, by which MLflow knows an ONNX model."""
    import platform

    version = vendored.requirements("onnx").strip().partition("==")[2]
    return f"""\
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: "{version}"
    providers:
    - CPUExecutionProvider
    save_as_external_data: false
  python_function:
    data: model.onnx
    loader_module: mlflow.onnx
    python_version: "{platform.python_version()}"
model_uuid: "{job.artifact.digest[:32]}"
"""


def _archive(folder: Path, name: str) -> str:
    """Write all files of a folder into NAME.tar.gz in it, the same bytes each time; return its name."""
    archive = f"{name}.tar.gz"
    members = sorted(file for file in folder.rglob("*") if file.is_file())
    with (
        (folder / archive).open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for file in members:
            entry = tarfile.TarInfo(f"{name}/{file.relative_to(folder).as_posix()}")
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                tar.addfile(entry, content)
    return archive
