"""What every answer of a network must be, whatever ran it."""

from __future__ import annotations

import numpy as np

from tlopt.artifact import Artifact
from tlopt.errors import ArtifactError, NotFiniteError


def check_logits(logits: np.ndarray, artifact: Artifact, backend: str) -> np.ndarray:
    """Return logits, (n, classes), as they are if each is a finite number and there is one for each class.

    Args:
        logits: What the network answered.
        artifact: What ran.
        backend: What ran it, for the error's message.

    Raises:
        ArtifactError: The network has another number of classes than its card.
        NotFiniteError: Some logits are no finite numbers.
    """
    classes = len(artifact.card.classes)
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ArtifactError(
            f"{artifact.path} answers with logits of shape {logits.shape}; its card has {classes} classes.",
            hint="Make the artifact again.",
        )
    if not np.isfinite(logits).all():
        wrong = int((~np.isfinite(logits)).any(axis=1).sum())
        raise not_finite(artifact, backend, wrong, len(logits))
    return logits


def not_finite(artifact: Artifact, backend: str, wrong: int, images: int) -> NotFiniteError:
    """Return the error for answers that are no finite numbers.

    Args:
        artifact: What ran.
        backend: What ran it.
        wrong: Number of images with such an answer.
        images: Number of all images.
    """
    return NotFiniteError(
        f"{artifact.path} answers with numbers that are not finite (NaN or infinity) on {backend}: "
        f"for {wrong} of {images} images.",
        hint=_HINTS.get(artifact.card.precision, _ANEW),
    )


_ANEW = "Its weights are damaged or its training went wrong: make it again."
_HALF = "Its values exceed {}: quantize its source to {} with --float-blocks, or keep the float artifact."
_HINTS = {"fp16": _HALF.format("fp16", "fp16"), "fp8": _HALF.format("fp8", "fp8")}
