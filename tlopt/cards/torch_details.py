"""What a card says about a torch network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tlopt.cards.words import AnswerKind, Runtime
from tlopt.reading.schema import Count, Positive


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
        precision_trial: How the precision of that training was chosen; empty if there was none.
        speedup: What was measured if a speed-up was asked for.
    """

    criterion: str
    sparsity: Literal["none", "2:4"]
    recovery: tuple[Mapping[str, Any], ...] = ()
    precision_trial: Mapping[str, Any] = field(default_factory=dict)
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
        answers: What the numbers of its output mean.
        macs: Multiply-adds before and after pruning, None if the network was not pruned.
        pruned: How it was pruned, None if it was not.
        qat: The scales that it was trained with, None if it was trained in float.
        metrics: The training's record; no later stage reads it.
        unreadable: Image that could not be read -> reason.
    """

    groups: Mapping[str, Positive] = field(default_factory=dict)
    answers: AnswerKind = "logits"
    macs: Macs | None = None
    pruned: Pruned | None = None
    qat: TrainedScales | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def sparse(self) -> bool:
        """Whether two of every four weights are zero and have to stay so."""
        return self.pruned is not None and self.pruned.sparsity == "2:4"
