"""What a card says about a TensorRT engine: where it runs, and how to build it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from tlopt.cards.outputs import Output
from tlopt.cards.words import AnswerKind, Task
from tlopt.reading.schema import Count, Positive, Sha256, Text

# They are written into the requirements and settings of deployments.
Version = Annotated[str, Meta(pattern=r"^[0-9]+([.+][0-9A-Za-z]+)*\Z")]
Capability = Annotated[str, Meta(pattern=r"^sm[0-9]+[a-z]?\Z")]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As the driver gives it ("NVIDIA GeForce RTX 4090").
        capability: Compute capability as a target's name ("sm89").
        driver_cuda: Newest CUDA that the driver supports ("13.0").
    """

    name: Text
    capability: Capability
    driver_cuda: str


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The batches an engine accepts, and the one it is tuned for.

    Attributes:
        input: Name of the input; its type is `dtype`, its shape (batch, *shape).
        output: Name of the output, (batch, classes); of several the first.
    """

    input: Text
    output: Text
    shape: tuple[Positive, ...]
    dtype: Annotated[str, Meta(pattern="^(float32|uint8)$")]
    min_batch: Positive
    opt_batch: Positive
    max_batch: Positive


@dataclass(frozen=True, kw_only=True)
class TimingCache:
    """The file of timings that an engine was built with."""

    file: str
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The settings that an engine was built with; see the build stage."""

    min_batch: Positive
    opt_batch: Positive
    max_batch: Positive
    workspace_mb: int | None = None
    optimization_level: int = 3
    timing_cache: TimingCache | None = None
    sparse: bool = False
    refit: bool = False
    strip_weights: bool = False
    version_compatible: bool = False
    hardware_compatible: Literal["no", "same-capability", "ampere-plus"] = "no"


@dataclass(frozen=True, kw_only=True)
class Inspector:
    """Counts of an engine's layers.

    Args:
        source: Who listed them.
        layers: How many there are.
        types: Type of layer -> layers.
        inputs: Type of tensor -> inputs.
        outputs: Type of tensor -> outputs.
        weights: Type of tensor -> weights; empty where the source does not tell.
    """

    source: str
    layers: Count
    types: Mapping[str, Count]
    inputs: Mapping[str, Count]
    outputs: Mapping[str, Count]
    weights: Mapping[str, Count] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BuiltFrom:
    """The graph that an engine was built from.

    Args:
        artifact: Digest of the onnx artifact.
        sha256: Of its payload.
        path: Of its payload, relative to the engine's folder.
    """

    artifact: Sha256
    sha256: Sha256
    path: Text


@dataclass(frozen=True, kw_only=True)
class EngineDetails:
    """What the card says about a TensorRT engine: where it runs, and how to build it again.

    Args:
        flavour: The kind of TensorRT.
        version: Its version.
        cuda: Version of CUDA; empty if it is not known.
        targets: Compute capabilities ("sm89").
        gpu: The GPU that it was built on; None if it was built ahead of time.
        profile: The batches that it accepts.
        options: How it was built.
        inspector: Counts of its layers.
        onnx: What it was built from.
        answers: What the numbers of its output mean.
        task: What it is for.
        outputs: Its outputs, if it is no classifier.
    """

    flavour: Literal["tensorrt", "rtx"]
    version: Version
    cuda: str
    targets: tuple[Capability, ...]
    gpu: Gpu | None
    profile: Profile
    options: EngineOptions
    inspector: Inspector
    onnx: BuiltFrom
    answers: AnswerKind = "logits"
    task: Task = "classify"
    outputs: tuple[Output, ...] = ()

    @property
    def device(self) -> str:
        """Name of the GPU that it was built on; empty if it was built ahead of time."""
        return self.gpu.name if self.gpu else ""
