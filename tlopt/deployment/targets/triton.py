"""A model repository for NVIDIA Triton Inference Server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from tlopt.deployment import kserve, reference, vendored
from tlopt.deployment.job import Checks, Job, Written
from tlopt.deployment.serving import environment
from tlopt.deployment.serving.client import Answers, ask, parse
from tlopt.deployment.serving.server import serving
from tlopt.deployment.triton import tuning
from tlopt.deployment.triton.asking import Body, body, request_inputs
from tlopt.deployment.triton.containers import container
from tlopt.deployment.triton.repository import CONFIG, Settings, on_gpu, repository
from tlopt.errors import ArtifactError, CheckError, SettingError
from tlopt.process import temporary

BACKENDS = {"onnx": ("onnxruntime", "openvino"), "tensorrt": ("tensorrt",)}
INPUTS = ("image", "pixels")
USES = frozenset({"max_batch", "max_delay_ms", "instances", "threads", "tune_latency_ms", "server"})
SEVERAL = True

MODELS = "models"  # the model repository, in which each folder is a model
EXAMPLE = "example.request"  # the body of a request about an image that tlopt has drawn
_LABELS = 3  # of the best classes that are asked for by name

_READ = "Triton's own protobuf reads the configurations."
_PARSED = (
    "The engine was not loaded: that takes its GPU and a server with its version of TensorRT.",
    "tlopt compare says whether the engine answers as its network does.",
)


def examine(job: Job) -> None:
    """Refuse what Triton does not serve.

    Raises:
        ArtifactError: Engines are for TensorRT for RTX, of several versions, without weights, or take no single image.
        SettingError: There is nothing that a tuning could run.
        MissingLibraryError: A tuning is asked for, and the server is not installed.
    """
    if job.kind == "tensorrt":
        _examine_engines(job)
    if job.tune_latency_ms is not None:
        if on_gpu(job):
            raise SettingError(
                f"--tune-latency-ms measures on this machine's processor; {job.artifact.path} runs on a GPU.",
                hint="Choose --max-batch, --max-delay-ms and --instances by a measurement on that GPU.",
            )
        environment.find(job.server)


def _examine_engines(job: Job) -> None:
    for artifact in job.artifacts:
        engine, path = artifact.card.engine, artifact.path
        if engine.flavour != "tensorrt":
            raise ArtifactError(
                f"{path} is an engine of TensorRT for RTX, which Triton has no backend for.",
                hint="Build it on the GPU with TensorRT: tlopt build --flavour tensorrt. Or deploy its onnx artifact.",
            )
        if engine.profile.min_batch > 1:
            raise ArtifactError(
                f"{path} takes at least {engine.profile.min_batch} images, and Triton sends it single ones, too.",
                hint="Build it again with --min-batch 1.",
            )
        if engine.version != job.card.engine.version:
            raise ArtifactError(
                f"{path} was built by TensorRT {engine.version}, {job.artifact.path} by {job.card.engine.version}. "
                "One server has one TensorRT.",
                hint="Build both with the same version.",
            )


def write(job: Job, folder: Path) -> Written:
    """Write the model repository and what runs it."""
    models, settings, notes = folder / MODELS, Settings.of(job), []
    repository(job, settings).write(models)
    if job.tune_latency_ms is not None:
        settings, said = tuning.tune(job, models, environment.find(job.server))
        notes.append(said)
    repository(job, settings).rewrite(models)
    image, hint = container(job)
    notes += [hint] if hint else []
    if job.fixed_batch > 1:
        notes.append(f"Every request holds {job.fixed_batch} images, and none is run with another's.")
    if job.backend == "openvino" and not job.fixed_batch:
        notes.append("Triton's OpenVINO backend does not put requests together: its instances run at once instead.")
    served = kserve.service(replace(job, **asdict(settings)), server="triton", folder=MODELS, gpu=on_gpu(job))
    (folder / "kserve.yaml").write_text(served, encoding="utf-8")
    if job.input == "image":
        (folder / "Dockerfile").write_text(_dockerfile(image), encoding="utf-8")
        (folder / "requirements.txt").write_text(vendored.requirements("pillow"), encoding="utf-8")
    example = _example(job)
    (folder / EXAMPLE).write_bytes(example.content)
    return Written(container=image, how=_how(job, image, example), notes=tuple(notes), chosen=asdict(settings))


def _dockerfile(image: str) -> str:
    """Return a Dockerfile of a server that can decode images."""
    return (
        f"# tritonserver with the models, and with Pillow, which decodes the images.\n"
        f"FROM {image}\n"
        "COPY requirements.txt /tmp/requirements.txt\n"
        "RUN python3 -m pip install --no-cache-dir --break-system-packages -r /tmp/requirements.txt\n"
        "COPY models /models\n"
        "USER 1000\n"
        "EXPOSE 8000 8001 8002\n"
        'HEALTHCHECK CMD ["curl", "--fail", "--silent", "localhost:8000/v2/health/ready"]\n'
        'CMD ["tritonserver", "--model-repository=/models", "--disable-auto-complete-config"]\n'
    )


def _how(job: Job, image: str, example: Body) -> tuple[str, ...]:
    gpus = "--gpus all " if on_gpu(job) else ""
    ports = "-p 8000:8000 -p 8001:8001 -p 8002:8002"
    compatible = job.kind == "tensorrt" and any(one.card.engine.options.version_compatible for one in job.artifacts)
    options = " --backend-config=tensorrt,version-compatible=true" if compatible else ""
    server = f"tritonserver --model-repository=/models --disable-auto-complete-config{options}"
    if job.input == "image":
        own = f" {server}" if compatible else ""
        tag = kserve.label(job.name)
        run = [f"docker build -t {tag} .", f"docker run --rm {gpus}{ports} {tag}{own}"]
    else:
        run = [f'docker run --rm {gpus}{ports} -v "$PWD/{MODELS}:/models:ro" {image} {server}']
    return (*run, example.command(EXAMPLE, job.name, "localhost", 8000))


def _example(job: Job) -> Body:
    """Return a request for the labels of an image."""
    (inputs,) = request_inputs(job, reference.images(1))
    return body(repository(job).endpoint, inputs, classes=_labels(job))


def _labels(job: Job) -> int:
    """Return how many labels to ask for: those of several images in one answer are numbered through all of them."""
    return 0 if job.fixed_batch > 1 else min(_LABELS, len(job.classes))


def problem(job: Job) -> str:
    """Return why there is no server here to check with; empty if there is one."""
    missing = environment.problem(job.server)
    return missing or ("" if job.kind == "tensorrt" else reference.problem(job))


def check(job: Job, folder: Path) -> Checks:
    """Have Triton read the configurations, serve the models with a real tritonserver, and compare its answers.

    Raises:
        CheckError: Triton does not read what was written, or answers otherwise than the artifact.
        StageError: The server refuses a model.
    """
    found = environment.find(job.server)
    models = folder / MODELS
    parse(found, sorted(models.glob(f"*/{CONFIG}")))
    if job.kind == "tensorrt":
        by = f"the protobuf of tritonclient {found.version('tritonclient')}"
        return Checks(by=by, proves=(_READ,), leaves_open=_PARSED)
    if not on_gpu(job):
        return _answered(job, found, models)
    with temporary.folder("check") as folder:
        copy = shutil.copytree(models, folder / MODELS)
        for config in copy.glob(f"*/{CONFIG}"):
            config.write_text(config.read_text(encoding="utf-8").replace("KIND_GPU", "KIND_CPU"), encoding="utf-8")
        return _answered(job, found, copy)


def _answered(job: Job, found: environment.Environment, models: Path) -> Checks:
    """Compare the answers of a server with the artifact's."""
    files = reference.images()
    wanted = reference.answers(job, files)
    endpoint = repository(job).endpoint
    with serving(found, models) as server:
        said = ask(found, server.ports, endpoint, request_inputs(job, files), labels=_labels(job))
        version = server.version
    results = []
    for way, numbers in said.numbers.items():
        rows = np.asarray(numbers, np.float32).reshape(-1, len(job.classes))
        each = np.repeat(wanted, max(1, job.fixed_batch), axis=0)
        what = f"tritonserver, asked over {way.replace('_', ', ')},"
        results.append(reference.compared(job, np.tile(each, (len(rows) // len(each), 1)), rows, what))
    _check_labels(job, said)
    return Checks(
        by=f"tritonserver {version}", images=len(files),
        difference=max(difference for difference, _ in results), agreement=min(share for _, share in results),
        proves=tuple(_proves(job, said)), leaves_open=tuple(_leaves_open(job)),
    )  # fmt: skip


def _check_labels(job: Job, said: Answers) -> None:
    """Compare the labels that the server gives with the classes of its own numbers.

    Raises:
        CheckError: They differ.
    """
    for protocol, every in said.labels.items():
        for numbers, labels in zip(said.numbers[f"{protocol}_single"], every, strict=True):
            best = job.classes[int(np.argmax(numbers.reshape(-1)))]
            if labels[0] != best:
                raise CheckError(
                    f"tritonserver calls the class {best} {labels[0]!r} over {protocol}.",
                    hint="Report the names of the classes.",
                )


def _proves(job: Job, said: Answers) -> Iterator[str]:
    how = "loads them, on this processor" if on_gpu(job) else "loads them unchanged"
    yield f"{_READ[:-1]}, and tritonserver {how}."
    yield "Over HTTP and gRPC, alone and among others, each image gets the answer that tlopt predict gives."
    if said.labels:
        yield "Asked for classes, the server gives their names."
    if most := max(said.batches, default=0):
        together = most // max(1, job.fixed_batch)
        if together > 1:
            yield f"Requests of several clients are run together: up to {most} images were."


def _leaves_open(job: Job) -> Iterator[str]:
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    yield f"A Python model stood in for Triton's own {names[job.backend]} backend, so its speed is not known."
    if job.backend == "openvino" and job.card.precision in ("fp32", "int8"):
        yield "Triton's OpenVINO backend may compute in bf16 where the processor can. Here it computed in fp32."
    if on_gpu(job):
        yield "The configuration says KIND_GPU. Here it was read as KIND_CPU."
