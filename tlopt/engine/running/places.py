"""Where the outputs of an engine lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlopt.artifact import Artifact
from tlopt.errors import ArtifactError, StageError


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

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Return whether it is that of an engine's output, whose shape has -1 for what the library does not tell."""
        wanted = self.all_of(-1)
        return len(shape) == len(wanted) and all(
            -1 in pair or pair[0] == pair[1] for pair in zip(shape, wanted, strict=True)
        )


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


def check_places(artifact: Artifact, engine: Any, places: Mapping[str, Place]) -> None:
    """Refuse an engine whose outputs are not those of its card: it would write beyond the memory of its answers.

    Args:
        artifact: Its folder.
        engine: The opened engine.
        places: Name -> place of each output, by the card.

    Raises:
        ArtifactError: An output is missing, or has another shape.
    """
    has = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    for name, place in places.items():
        if name not in has:
            raise ArtifactError(f"The engine {artifact.path} has no output {name!r}.", hint="Build it again.")
        found = tuple(engine.get_tensor_shape(name))
        if not place.holds(found):
            raise ArtifactError(
                f"The engine {artifact.path} answers with {name} of shape {found}; its card says {place.all_of(-1)}.",
                hint="Build it again.",
            )
