"""Images without labels that may take part in a training: which of a folder they are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from tlopt.errors import ImagesError, SettingError
from tlopt.images import ImageFolder, Split
from tlopt.images.scanning import every_image
from tlopt.settings import Setting
from tlopt.training.hyperparameters import Method

log = logging.getLogger(__name__)

_LOOKED_AT = 20_000  # images, at most: to decode and answer more would take longer than to train


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """What a network learns from besides labels."""

    teacher: Annotated[
        Path | None, Setting("Artifact from whose answers the network also learns.", group="Distillation")
    ] = None
    unlabelled: Annotated[
        Path | None,
        Setting(
            "Folder of images without labels that also take part. The answers of the teacher, or else of the network "
            "before all layers train, stand for their labels.",
            group="Distillation",
        ),
    ] = None
    unlabelled_confidence: Annotated[
        float,
        Setting(
            "Smallest confidence of an answer that stands for a label.", minimum=0, maximum=1, group="Distillation"
        ),
    ] = 0.7


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """Images without labels that may take part in a training.

    Args:
        folder: The images; their labels mean nothing.
        confidence: Smallest confidence of an answer that stands for a label.
        found: Images in the folder on disk.
        left_out: Why images were left out -> how many.
    """

    folder: ImageFolder
    confidence: float
    found: int
    left_out: Mapping[str, int]


def refuse_head(guidance: Guidance, method: Method) -> None:
    """Refuse a method that nothing without a label takes part in.

    Args:
        guidance: What was asked for.
        method: Of the training.

    Raises:
        SettingError: It is one.
    """
    if guidance.unlabelled is not None and method == "head":
        raise SettingError(
            "Images without labels take part when all layers train, which --method head and --effort quick leave out.",
            hint="Leave out --unlabelled, or choose another --effort or --method.",
        )


def refuse_untrained(guidance: Guidance, method: Method, kind: str) -> None:
    """Refuse images without labels that nothing can answer for.

    Args:
        guidance: What was asked for.
        method: Of the training.
        kind: What is trained: "images" for a network whose classifier is untrained.

    Raises:
        SettingError: Nothing can.
    """
    given = guidance.unlabelled is not None and guidance.teacher is None
    if given and method == "full" and kind == "images":
        raise SettingError(
            "With --method full the classifier is untrained, so nothing can answer for images without labels.",
            hint="Name a --teacher, or leave out --method.",
        )


def find(given: Guidance, parts: Mapping[Split, ImageFolder], seed: int) -> Unlabelled | None:
    """Find the images without labels that may take part: no copies of one another or of labelled images.

    An image of the validation or test part must not be trained on. One of the training part is in it already.

    Args:
        given: What was asked for.
        parts: The labelled images.
        seed: Of the choice, if there are very many.

    Returns:
        None if none were asked for.

    Raises:
        ImagesError: There are none.
    """
    if given.unlabelled is None:
        return None
    folder = every_image(given.unlabelled)
    held = set(parts["val"].hashes) | set(parts["test"].hashes)
    trained = set(parts["train"].hashes)
    left_out = {"of_validation_or_test": 0, "of_training": 0, "copies": 0, "more_than_looked_at": 0}
    kept: list[int] = []
    seen: set[str] = set()
    for position, content in enumerate(folder.hashes):
        if content in held:
            left_out["of_validation_or_test"] += 1
        elif content in trained:
            left_out["of_training"] += 1
        elif content in seen:
            left_out["copies"] += 1
        else:
            seen.add(content)
            kept.append(position)
    if not kept:
        raise ImagesError(
            f"Every image in {given.unlabelled} is a copy of a labelled one, so none is left to take part.",
            hint="Name a folder of other images with --unlabelled.",
        )
    if count := left_out["of_validation_or_test"]:
        log.warning(
            "%d of the %d images in %s are copies of images for validation or the test. They are left out.",
            count, len(folder), given.unlabelled,
        )  # fmt: skip
    if len(kept) > _LOOKED_AT:
        left_out["more_than_looked_at"] = len(kept) - _LOOKED_AT
        chosen = np.sort(np.random.default_rng(seed).permutation(len(kept))[:_LOOKED_AT])
        kept = [kept[i] for i in chosen.tolist()]
    classes = parts["train"].classes
    some = folder.select(kept)
    return Unlabelled(
        folder=some.labelled(some.labels, classes),
        confidence=given.unlabelled_confidence,
        found=len(folder),
        left_out=left_out,
    )
