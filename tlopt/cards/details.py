"""What a card says about one kind of artifact: of a torch network, of an ONNX graph, of an engine.

The card's ``details`` are one of `TorchDetails`, `OnnxDetails` and `EngineDetails`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from tlopt.reading.schema import Count, Positive, Sha256, Share, Text

Runtime = Literal["onnxruntime", "openvino", "tensorrt"]
# What the numbers of a classifier mean; "sigmoids" are probabilities of a yes or no for each class by itself.
AnswerKind = Literal["logits", "probabilities", "log_probabilities", "sigmoids"]


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Multiply-adds for an image, before and after pruning."""

    before: Count
    after: Count


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How much faster a pruned network is.

    Args:
        asked: The factor asked for.
        measured: Batch -> factor.
        before_ms: Batch -> latency of the whole network.
        after_ms: Batch -> latency of the pruned network.
    """

    asked: float
    measured: Mapping[str, float]
    before_ms: Mapping[str, float]
    after_ms: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """How a network was pruned.

    Args:
        criterion: What ranked the channels.
        sparsity: The pattern of zeros that the weights keep; "none" for no pattern.
        recovery: The training's record of each epoch after pruning.
        speedup: What was measured if a speed-up was asked for.
    """

    criterion: str
    sparsity: Literal["none", "2:4"]
    recovery: tuple[Mapping[str, Any], ...] = ()
    speedup: Speedup | None = None


@dataclass(frozen=True, kw_only=True)
class TrainedScales:
    """The scales of quantization-aware training.

    Args:
        runtime: What the network was trained for.
        scales: Tensor of the exported graph -> scale and zero point.
        reduce_range: Whether the weights have half of the int8 range.
    """

    runtime: Runtime
    scales: Mapping[str, tuple[float, int]]
    reduce_range: bool = False


@dataclass(frozen=True, kw_only=True)
class TorchDetails:
    """What the card says about a torch network.

    Args:
        groups: Convolution -> its groups, of all grouped convolutions.
        macs: Multiply-adds before and after pruning, None if the network was not pruned.
        pruned: How it was pruned, None if it was not.
        qat: The scales that it was trained with, None if it was trained in float.
        metrics: The training's record; no later stage reads it.
        unreadable: Image that could not be read -> reason.
    """

    groups: Mapping[str, Positive] = field(default_factory=dict)
    macs: Macs | None = None
    pruned: Pruned | None = None
    qat: TrainedScales | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def sparse(self) -> bool:
        """Whether two of every four weights are zero and have to stay so."""
        return self.pruned is not None and self.pruned.sparsity == "2:4"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How an exported graph was compared with its torch network.

    Args:
        images: Number of images.
        origin: Where they came from.
        runtime: What ran the graph.
        difference: Largest difference of the logits, relative to their spread.
        agreement: Share of equal labels.
    """

    images: Count
    origin: str
    runtime: str
    difference: float
    agreement: Share


@dataclass(frozen=True, kw_only=True)
class BlockAlone:
    """What one block gains in float, and what that costs.

    Args:
        gain_db: Signal to noise of the logits, decibels.
        latency: Share of the latency that is added, None if it was not timed.
    """

    gain_db: float
    latency: float | None


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """The best set of so many float blocks.

    Args:
        float_blocks: Their names.
        drop: Loss of accuracy, or share of other labels.
        flips: Share of labels that differ from the float network's.
        snr_db: Signal to noise of the logits, decibels.
        latency_ms: Batch -> milliseconds; empty if it was not timed.
    """

    float_blocks: tuple[str, ...]
    drop: float
    flips: float
    snr_db: float
    latency_ms: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Which blocks were left float for the accuracy's sake.

    Args:
        max_drop: The limit.
        met: Whether the drop is within the limit.
        drop_of: What the limit is for.
        images: Number of images that were looked at.
        float_blocks: Float block -> reason.
        trade_off: The best set of each number of float blocks.
        blocks: Block -> what it does alone.
    """

    max_drop: float
    met: bool
    drop_of: Literal["accuracy", "agreement"]
    images: Count
    float_blocks: Mapping[str, str]
    trade_off: tuple[TradeOff, ...]
    blocks: Mapping[str, BlockAlone]


@dataclass(frozen=True, kw_only=True)
class BesideSource:
    """A figure of the source and of the quantized graph."""

    source: float
    result: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of a quantized graph, beside its source.

    Args:
        backend: What ran both.
        images: Number of images; None if nothing could be measured.
        agreement: Share of equal labels.
        snr_db: Signal to noise of the logits, decibels.
        saturated: Whether integer kernels of the processor saturate with its weights.
        accuracy: None where the labels are not known.
        latency_ms: Batch -> milliseconds; None if it was not timed.
        slower_at_batch: The batches at which it is slower than its source.
        not_timed: Why it was not timed; empty if it was.
    """

    backend: str
    images: Count | None = None
    agreement: Share | None = None
    snr_db: float | None = None
    saturated: bool = False
    accuracy: BesideSource | None = None
    latency_ms: Mapping[str, BesideSource] | None = None
    slower_at_batch: tuple[int, ...] = ()
    not_timed: str = ""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """How a graph was quantized or cast.

    Args:
        runtime: What it was made for.
        calibration_images: Number of images that the ranges were chosen from.
        quantizer: What chose the ranges; "trained" for those of the training; empty for a cast.
        reduce_range: Whether the weights have half of the int8 range; None for a cast.
        macs: Multiply-adds of one image; None for a cast.
        eight_bit_macs: Those of them that are in 8 bits; None for a cast.
        float_blocks: The blocks left float because it was asked for.
        float_nodes: The nodes left float because their values exceed the format.
        sensitivity: Which blocks were left float for the accuracy's sake, None without a limit.
        measured: What was measured of the result; None while it is being made.
    """

    runtime: Runtime
    calibration_images: Count
    quantizer: str = ""
    reduce_range: bool | None = None
    macs: Count | None = None
    eight_bit_macs: Count | None = None
    float_blocks: tuple[str, ...] = ()
    float_nodes: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None
    measured: Measured | None = None


@dataclass(frozen=True, kw_only=True)
class OnnxDetails:
    """What the card says about an ONNX graph.

    Args:
        opset: Version of its operators; 0 if it is not known.
        fixed_batch: Number of images that each run takes; 0 for any number.
        answers: What the numbers of its output mean.
        parity: How it was compared with the torch network; None for a graph that was imported.
        network: The details of the torch network that was exported; None for a graph that was imported.
        quantized: How it was quantized or cast; None if it was not.
    """

    opset: Count = 0
    fixed_batch: Count = 0
    answers: AnswerKind = "logits"
    parity: Parity | None = None
    network: TorchDetails | None = None
    quantized: Quantized | None = None

    @property
    def qat(self) -> TrainedScales | None:
        """The scales that the network was trained with."""
        return self.network.qat if self.network else None


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As the driver gives it ("NVIDIA GeForce RTX 4090").
        capability: Compute capability as a target's name ("sm89").
        driver_cuda: Newest CUDA that the driver supports ("13.0").
    """

    name: Text
    capability: str
    driver_cuda: str


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The batches an engine accepts, and the one it is tuned for.

    Attributes:
        input: Name of the input; its type is `dtype`, its shape (batch, *shape).
        output: Name of the output, (batch, classes).
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
    """

    flavour: Literal["tensorrt", "rtx"]
    version: Text
    cuda: str
    targets: tuple[str, ...]
    gpu: Gpu | None
    profile: Profile
    options: EngineOptions
    inspector: Inspector
    onnx: BuiltFrom
    answers: AnswerKind = "logits"

    @property
    def device(self) -> str:
        """Name of the GPU that it was built on; empty if it was built ahead of time."""
        return self.gpu.name if self.gpu else ""


Details = TorchDetails | OnnxDetails | EngineDetails
KINDS: Mapping[str, type[Details]] = {"torch": TorchDetails, "onnx": OnnxDetails, "tensorrt": EngineDetails}
