"""The files of a model repository: one model, or a step that decodes before it and the two together."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tlopt.deployment import vendored
from tlopt.deployment.job import Job
from tlopt.deployment.serving.client import Endpoint
from tlopt.deployment.serving.environment import INSIDE
from tlopt.deployment.triton.config import VERSION, Batching, Decoder, Model, Tensor, ensemble
from tlopt.measure.candidates import for_tensorrt
from tlopt.registry import require

CONFIG = "config.pbtxt"
_DELAY_MS = 0.5  # that a request waits for others where nobody has said or measured better
_ANY = -1  # a size that each request says itself
_FILES = "image"  # the input of a model that takes image files


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides how fast a model answers.

    Args:
        max_batch: Images of the largest batch.
        max_delay_ms: How long a request may wait for others.
        instances: How many batches run at once.
        threads: Processor threads of each; 0 leaves that to the runtime.
    """

    max_batch: int
    max_delay_ms: float
    instances: int
    threads: int

    @classmethod
    def of(cls, job: Job) -> Settings:
        """Return what a job asks for, and the defaults for the rest."""
        delay = _DELAY_MS if job.max_delay_ms is None else job.max_delay_ms
        return cls(max_batch=job.max_batch, max_delay_ms=delay, instances=job.instances or 1, threads=job.threads)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What a model repository holds.

    Args:
        job: What it is made of.
        model: The network.
        decoder: The step before it; None if a request holds pixels.
    """

    job: Job
    model: Model
    decoder: Decoder | None

    @property
    def configs(self) -> Mapping[str, str]:
        """Model -> its configuration."""
        found = {self.model.name: self.model.config()}
        if self.decoder is not None:
            found[self.decoder.name] = self.decoder.config()
            found[self.job.name] = ensemble(self.job.name, self.decoder, self.model)
        return found

    @property
    def endpoint(self) -> Endpoint:
        """What a client asks."""
        return Endpoint(
            model=self.job.name, network=self.model.name, input=(self.decoder or self.model).input.name,
            output=self.model.output.name, takes_files=self.decoder is not None,
            fixed_batch=self.job.fixed_batch,
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write all files into a new folder.

        Raises:
            ArtifactError: The graph cannot be read or converted.
        """
        for name, config in self.configs.items():
            (folder / name / VERSION).mkdir(parents=True)
            (folder / name / CONFIG).write_text(config, encoding="utf-8")
        _write_payload(self.job, self.model, folder / self.model.name / VERSION)
        vendored.write_labels(folder / self.model.name, self.job.classes)
        if self.decoder is not None:
            vendored.write_labels(folder / self.job.name, self.job.classes)
            # A folder of a version has to be there, and not everything keeps an empty one.
            (folder / self.job.name / VERSION / ".gitkeep").touch()
            step = folder / self.decoder.name / VERSION
            shutil.copyfile(INSIDE / "decoder.py", step / "model.py")
            (step / vendored.DECODING).write_text(vendored.decoding(self.job), encoding="utf-8")

    def rewrite(self, folder: Path) -> None:
        """Write the configurations anew."""
        for name, config in self.configs.items():
            (folder / name / CONFIG).write_text(config, encoding="utf-8")


def repository(job: Job, settings: Settings | None = None, *, dynamic: bool = True) -> Repository:
    """Return what the model repository of a job holds.

    Args:
        job: The deployment.
        settings: What decides the speed; what the job says if None.
        dynamic: Whether requests of several clients are run together.
    """
    settings = settings or Settings.of(job)
    name = job.name if job.input == "pixels" else f"{job.name}_network"
    model = _model(job, settings, name, dynamic)
    if job.input == "pixels":
        return Repository(job=job, model=model, decoder=None)
    shape = (job.fixed_batch,) if job.fixed_batch else (1,) if model.batching.most else (_ANY, 1)
    decoder = Decoder(
        name=f"{job.name}_decode", input=Tensor(name=_FILES, dtype="object", shape=shape), output=model.input,
        most=model.batching.most, instances=max(2, settings.instances),
    )  # fmt: skip
    return Repository(job=job, model=model, decoder=decoder)


def _model(job: Job, settings: Settings, name: str, dynamic: bool) -> Model:
    inputs, output = _tensors(job)
    delay_us = round(settings.max_delay_ms * 1000)
    batching = Batching(
        most=settings.max_batch, delay_us=delay_us, preferred=_preferred(job, settings), dynamic=dynamic
    )
    if not batches(job):
        first = job.fixed_batch or _ANY
        inputs, output = (replace(one, shape=(first, *one.shape)) for one in (inputs, output))
        batching = Batching(most=0)
    return Model(
        name=name, backend=job.backend, file=_file(job), files=_files(job), input=inputs, output=output,
        batching=batching, instances=settings.instances, device="GPU" if on_gpu(job) else "CPU",
        parameters=_parameters(job, settings),
    )  # fmt: skip


def batches(job: Job) -> bool:
    """Whether the server may put requests together, and so has to know the batch from the rest of a shape.

    Triton's OpenVINO backend compiles a model that is batched for the largest batch alone. It refuses smaller ones, or
    fills them up with zeros (openvino_backend, src/openvino.cc, 26.08). Its instances run at once instead.
    """
    return not job.fixed_batch and job.backend != "openvino"


def on_gpu(job: Job) -> bool:
    """Whether the network is made to run on a GPU: an engine, or a graph that is meant to become one."""
    return job.kind == "tensorrt" or for_tensorrt(job.artifact)


def _tensors(job: Job) -> tuple[Tensor, Tensor]:
    """Return input and output of one image."""
    classes = (len(job.classes),)
    if job.kind == "tensorrt":
        profile = job.card.engine.profile
        taken = Tensor(name=profile.input, dtype=profile.dtype, shape=profile.shape)
        return taken, Tensor(name=profile.output, dtype="float32", shape=classes)
    graph = job.graph.graph
    return _tensor(graph.input[0], job.served.input_shape), _tensor(graph.output[0], classes)


def _tensor(value: object, shape: tuple[int, ...]) -> Tensor:
    helper = require("onnx.helper")
    kind = value.type.tensor_type.elem_type  # type: ignore[attr-defined]
    return Tensor(name=value.name, dtype=helper.tensor_dtype_to_np_dtype(kind).name, shape=shape)  # type: ignore[attr-defined]


def _preferred(job: Job, settings: Settings) -> tuple[int, ...]:
    """Return the batches that need no further wait: those an engine is tuned for. Others gain from every image."""
    if job.kind != "tensorrt":
        return ()
    tuned = min(artifact.card.engine.profile.opt_batch for artifact in job.artifacts)
    return tuple(sorted({min(tuned, settings.max_batch), settings.max_batch}))


def _parameters(job: Job, settings: Settings) -> dict[str, str]:
    """Return what the backend is told of threads: ONNX Runtime of each instance's, OpenVINO of all together."""
    if on_gpu(job):
        return {}
    if job.backend == "openvino":
        threads = {"INFERENCE_NUM_THREADS": str(settings.threads * settings.instances)} if settings.threads else {}
        return {"NUM_STREAMS": str(settings.instances), **threads}
    return {"intra_op_thread_count": str(settings.threads)} if settings.threads else {}


def _file(job: Job) -> str:
    names = {"onnxruntime": "model.onnx", "openvino": "model.xml", "tensorrt": "model.plan"}
    return next(iter(_files(job).values())) if len(job.artifacts) > 1 else names[job.backend]


def _files(job: Job) -> dict[str, str]:
    """Return compute capability -> file, if several GPUs have engines of their own."""
    if len(job.artifacts) == 1:
        return {}
    found = {}
    for artifact in job.artifacts:
        for target in artifact.card.engine.targets:
            found[capability(target)] = f"model_{'_'.join(artifact.card.engine.targets)}.plan"
    return found


def capability(target: str) -> str:
    """Return a target ("sm89") as Triton writes it ("8.9")."""
    digits = target.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"


def _write_payload(job: Job, model: Model, folder: Path) -> None:
    if job.kind == "tensorrt":
        names = [f"model_{'_'.join(one.card.engine.targets)}.plan" for one in job.artifacts]
        for artifact, name in zip(job.artifacts, names if len(names) > 1 else [model.file], strict=True):
            shutil.copyfile(artifact.payload(".engine"), folder / name)
    elif job.backend == "openvino":
        openvino = require("openvino")
        converted = openvino.Core().read_model(job.graph.SerializeToString())
        openvino.save_model(converted, folder / model.file, compress_to_fp16=False)
    else:
        (folder / model.file).write_bytes(job.graph.SerializeToString())
