"""What a card says about a torch network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tlopt.cards.words import AnswerKind, Runtime
from tlopt.reading.schema import Count, Positive, Share, Text


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
class Rival:
    """The unpruned network on smaller images, beside the pruned one.

    Args:
        image_size: Side of the images at which it needs as many multiply-adds, or as much time if a speed-up was
            asked for.
        macs: Its multiply-adds for an image of that size.
        speed: Batch -> measured times as fast as the pruned network; empty if it was not timed.
        accuracy: Estimate for validation images: of a regression on its features, without training its layers.
        pruned_accuracy: Of the pruned network on the same images.
        images: Their number.
        command: What trains it.
    """

    image_size: Positive
    macs: Count
    speed: Mapping[str, float] = field(default_factory=dict)
    accuracy: Share
    pruned_accuracy: Share
    images: Count
    command: str

    @property
    def better(self) -> bool:
        """Whether the rival is estimated to be at least as accurate."""
        return self.accuracy >= self.pruned_accuracy

    def told(self) -> str:
        """Return what was found, in sentences; the command, if it is worth running, stands on a line of its own."""
        if self.speed:
            speed = " and ".join(f"{ratio:.2f} x (batch {batch})" for batch, ratio in self.speed.items())
            cost = f"runs {speed} as fast as the pruned one"
        else:
            cost = f"needs {self.macs / 1e6:.4g} million multiply-adds, no more than the pruned one"
        found = (
            f"The unpruned network at {self.image_size} px {cost}. Its accuracy is estimated at {self.accuracy:.1%} of "
            f"{self.images} validation images, without training it. The pruned network has {self.pruned_accuracy:.1%}."
        )
        if not self.better:
            return found
        return f"{found} The first looks like the better choice. Train it with:\n{self.command}"


@dataclass(frozen=True, kw_only=True)
class Split:
    """A number of removed blocks, with channels for the rest of what was asked, as a short training judged it.

    Args:
        blocks: The removed blocks.
        loss: On validation images after the short training, nats. None if channels could not make up the rest, or if
            the training failed.
    """

    blocks: tuple[Text, ...]
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """How a network was pruned.

    Args:
        criterion: What ranked the channels.
        sparsity: The pattern of zeros that the weights keep; "none" for no pattern.
        recovery: The training's record of each epoch after pruning.
        precision_trial: How the precision of that training was chosen; empty if there was none.
        speedup: What was measured if a speed-up was asked for.
        splits: What was tried of removed blocks, for each cut in turn; empty if blocks were kept.
        rival: The unpruned network on smaller images; None if it was not looked at or there is none.
    """

    criterion: str
    sparsity: Literal["none", "2:4"]
    recovery: tuple[Mapping[str, Any], ...] = ()
    precision_trial: Mapping[str, Any] = field(default_factory=dict)
    speedup: Speedup | None = None
    splits: tuple[Split, ...] = ()
    rival: Rival | None = None


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
        removed_blocks: The blocks of the architecture that the network lacks: each answers with what it is given.
        answers: What the numbers of its output mean.
        macs: Multiply-adds before and after pruning, None if the network was not pruned.
        pruned: How it was pruned, None if it was not.
        qat: The scales that it was trained with, None if it was trained in float.
        metrics: The training's record; no later stage reads it.
        unreadable: Image that could not be read -> reason.
    """

    groups: Mapping[str, Positive] = field(default_factory=dict)
    removed_blocks: tuple[Text, ...] = ()
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

    @property
    def rival(self) -> Rival | None:
        """The unpruned network on smaller images, if pruning looked at it."""
        return self.pruned.rival if self.pruned is not None else None
