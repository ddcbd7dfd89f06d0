"""Any number of images through a graph that was made for one number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tlopt.artifact import Artifact
from tlopt.cards.details import Output
from tlopt.outputs import Answer


def fixed_batch(artifact: Artifact) -> int:
    """Return the number of images that each run of an ONNX artifact takes; 0 if it takes any."""
    return artifact.card.onnx.fixed_batch


def in_parts(run: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, size: int) -> np.ndarray:
    """Return the logits of all images, so many at a time; the last run is filled up with its last image.

    Args:
        run: Returns logits, (size, classes), of exactly `size` images.
        inputs: (n, ...).
        size: Images of a run; 0 for all at once.
    """
    if size in (0, len(inputs)):
        return run(inputs)
    if not len(inputs):  # the graph alone knows how many classes there are, and of which type
        return run(np.zeros((size, *inputs.shape[1:]), inputs.dtype))[:0]
    return np.concatenate([run(part)[:count] for part, count in _parts(inputs, size)])


def of_each(
    run: Callable[[np.ndarray], Sequence[np.ndarray]], inputs: np.ndarray, size: int, outputs: Sequence[Output]
) -> list[Answer]:
    """Return every output of each image, so many images at a time.

    Args:
        run: Returns the outputs, in the order of `outputs`, of exactly `size` images.
        inputs: (n, ...), n at least 1.
        size: Images of a run; 0 for all at once.
        outputs: Of the card. One without an axis for the batch is of one image: then `size` is 1.
    """
    found: list[Answer] = []
    for part, count in [(inputs, len(inputs))] if size in (0, len(inputs)) else _parts(inputs, size):
        arrays = [np.asarray(values) for values in run(part)]
        pairs = list(zip(arrays, outputs, strict=True))
        found += [tuple(values[i] if output.batched else values for values, output in pairs) for i in range(count)]
    return found


def _parts(inputs: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the inputs of each run, and how many of them are images that were asked for."""
    for first in range(0, len(inputs), size):
        part = inputs[first : first + size]
        missing = size - len(part)
        filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        yield np.ascontiguousarray(filled), len(part)
