"""Any number of images through a graph that was made for one number of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tlopt.artifact import Artifact


def fixed_batch(artifact: Artifact) -> int:
    """Return the number of images that each run of an ONNX artifact takes; 0 if it takes any."""
    return artifact.card.onnx.fixed_batch


def in_parts(run: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, size: int) -> np.ndarray:
    """Return the logits of all images, so many at a time; the last run is filled up with its last image.

    Args:
        run: Returns logits, (size, classes), of exactly `size` images.
        inputs: (n, ...), n at least 1.
        size: Images of a run; 0 for all at once.
    """
    if size in (0, len(inputs)):
        return run(inputs)
    parts = []
    for first in range(0, len(inputs), size):
        part = inputs[first : first + size]
        missing = size - len(part)
        filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        parts.append(run(np.ascontiguousarray(filled))[: len(part)])
    return np.concatenate(parts)
