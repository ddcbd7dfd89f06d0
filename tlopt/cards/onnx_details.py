"""What a card says about an ONNX graph: how it was exported and quantized, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tlopt.cards.outputs import Output, OutputError
from tlopt.cards.torch_details import TorchDetails, TrainedScales
from tlopt.cards.words import AnswerKind, Runtime, Task
from tlopt.reading.schema import Count, Share


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
        snr_db: Signal to noise of the logits, or of the worst output, decibels.
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
        drop_of: What the limit is for; "noise" is the share of noise in the worst output.
        images: Number of images that were looked at.
        float_blocks: Float block -> reason.
        trade_off: The best set of each number of float blocks.
        blocks: Block -> what it does alone.
    """

    max_drop: float
    met: bool
    drop_of: Literal["accuracy", "agreement", "noise"]
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
        snr_db: Signal to noise of the logits, or of the worst output, decibels.
        saturated: Whether integer kernels of the processor saturate with its weights.
        accuracy: None where the labels are not known.
        latency_ms: Batch -> milliseconds; None if it was not timed.
        slower_at_batch: The batches at which it is slower than its source.
        not_timed: Why it was not timed; empty if it was.
        outputs: The error of each output, if it is no classifier.
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
    outputs: tuple[OutputError, ...] = ()


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
        task: What it is for.
        outputs: Its outputs, if it is no classifier.
        parity: How it was compared with the torch network; None for a graph that was imported.
        network: The details of the torch network that was exported; None for a graph that was imported.
        quantized: How it was quantized or cast; None if it was not.
    """

    opset: Count = 0
    fixed_batch: Count = 0
    answers: AnswerKind = "logits"
    task: Task = "classify"
    outputs: tuple[Output, ...] = ()
    parity: Parity | None = None
    network: TorchDetails | None = None
    quantized: Quantized | None = None

    @property
    def qat(self) -> TrainedScales | None:
        """The scales that the network was trained with."""
        return self.network.qat if self.network else None
