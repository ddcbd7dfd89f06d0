"""Where the outputs of an engine lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlopt.artifact import Artifact
from tlopt.errors import StageError


@dataclass(frozen=True)
class Place:
    """Where one output lies.

    Attributes:
        shape: Of one image, or of a run.
        batched: Whether it is of one image.
    """

    shape: tuple[int, ...]
    batched: bool = True

    def all_of(self, images: int) -> tuple[int, ...]:
        """Return the shape that so many images take."""
        return (images, *self.shape) if self.batched else self.shape

    def some(self, values: np.ndarray, images: int) -> np.ndarray:
        """Return the part of so many images."""
        return values[:images] if self.batched else values


def places_of(artifact: Artifact) -> dict[str, Place]:
    """Return name -> place of each output of an engine, in the order of its card.

    Raises:
        StageError: The length of one varies from image to image.
    """
    card = artifact.card
    if card.task == "classify":
        return {card.engine.profile.output: Place((len(card.classes),))}
    if varying := [output.name for output in card.outputs if output.varies]:
        raise StageError(
            f"The engine {artifact.path} cannot be run: the length of its output {varying[0]} varies.",
            hint="Import the ONNX file without what chooses rows: --output NAME,NAME of the tensors before it.",
        )
    return {output.name: Place(output.shape, output.batched) for output in card.outputs}
