"""The network that a training run begins with: a pretrained one, or that of an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tlopt.artifact import Artifact
from tlopt.cards.words import AnswerKind
from tlopt.errors import SettingError, StageError
from tlopt.preprocess import LARGEST, Preprocess
from tlopt.reading.names import shown_name
from tlopt.settings import Setting
from tlopt.sources import expect_known_at_once

if TYPE_CHECKING:
    from torch import nn

_MODEL = "Model"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Which pretrained network, and what is changed about it."""

    model: Annotated[
        str,
        Setting("Pretrained network to start from, named source:name.", group=_MODEL, common=True),
    ] = "pip:efficientnet_lite0"
    weights: Annotated[Path | None, Setting("Safetensors file that replaces the pretrained weights.", group=_MODEL)] = (
        None
    )
    image_size: Annotated[
        int | None,
        Setting(
            "Side of the square input image, in pixels. Default: the network's own.",
            minimum=16,
            maximum=LARGEST,
            group=_MODEL,
            common=True,
        ),
    ] = None
    dropout: Annotated[
        float | None,
        Setting(
            "Dropout before the classifier. Default: the network's own.", minimum=0, maximum=0.9, group="Regularization"
        ),
    ] = None
    drop_path: Annotated[
        float | None,
        Setting("Share of residual blocks that are skipped at random.", minimum=0, maximum=0.9, group="Regularization"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network to train.

    Args:
        name: ``source:name``.
        module: The network, its classifier of the right width.
        preprocess: How images are fed to it.
        fresh: Whether its classifier is untrained.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess
    fresh: bool


def pretrained(chosen: Pretrained, *, classes: int, seed: int) -> Network:
    """Load a pretrained network with a new classifier.

    Args:
        chosen: Which one.
        classes: Number of logits.
        seed: Of the classifier's random weights.

    Raises:
        PluginError: The source or the model is unknown, or its weights cannot be reached.
        MissingLibraryError: The source's library is not installed.
        ArtifactError: The weights file does not fit the architecture.
        StageError: The network answers with probabilities.
    """
    import torch

    from tlopt import sources
    from tlopt.networks import ending

    options = {"drop_rate": chosen.dropout, "drop_path_rate": chosen.drop_path}
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    name = sources.pinned(chosen.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, preprocess = sources.load(
            name, classes=classes, size=chosen.image_size or 0, weights_file=chosen.weights, **given
        )
        answers = ending.kind_of(module, torch.randn(2, 3, preprocess.size, preprocess.size))
    check_logits(name, answers)
    return Network(name=name, module=module, preprocess=preprocess, fresh=True)


def refuse_unknown(start: Pretrained) -> None:
    """Refuse a network that its name alone shows to be none, before images are read and libraries imported.

    Raises:
        PluginError: The source or the model is unknown.
        SettingError: An option makes no sense.
    """
    expect_known_at_once(start.model)


def refuse_changes(start: Pretrained, kind: str) -> None:
    """Refuse what changes a pretrained network where an artifact is trained.

    Args:
        start: What was asked for.
        kind: What is trained: "images" for a pretrained network.

    Raises:
        SettingError: It is an artifact, and it would change.
    """
    if kind != "images" and (start.weights is not None or (start.dropout, start.drop_path) != (None, None)):
        raise SettingError(
            "An artifact keeps its own weights: weights, dropout and drop_path are for a pretrained network.",
            hint="Leave them out.",
        )


def of_artifact(source: Artifact, chosen: Pretrained | None = None) -> Network:
    """Open the network of a torch artifact, to go on with it.

    Args:
        source: The artifact.
        chosen: What was asked for, which must leave the network as it is.

    Raises:
        SettingError: The size of its images does not.
        ArtifactError: The weights do not fit.
        StageError: The network answers with probabilities.
    """
    from tlopt import sources

    card, chosen = source.card, chosen or Pretrained()
    if chosen.image_size not in (None, card.preprocess.size):
        raise SettingError(
            f"{source.path} takes images of {card.preprocess.size} pixels, and image_size is {chosen.image_size}.",
            hint="Leave --image-size out.",
        )
    check_logits(card.model, card.answers)
    return Network(name=card.model, module=sources.open_model(source), preprocess=card.preprocess, fresh=False)


def check_logits(name: str, answers: AnswerKind) -> None:
    """Refuse to train a network that answers with something else than logits.

    Args:
        name: Of the model.
        answers: What its numbers mean.

    Raises:
        StageError: They are no logits.
    """
    if answers != "logits":
        raise StageError(
            f"The network {shown_name(name)} answers with {answers.replace('_', '-')}; training takes logits.",
            hint=f"Leave the {_STEPS[answers]} at its end out of the function that makes it.",
        )


_STEPS = {"probabilities": "softmax", "log_probabilities": "log-softmax", "sigmoids": "sigmoid"}
