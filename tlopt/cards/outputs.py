"""What the cards say of the outputs of a network that is no classifier, and of their error."""

from __future__ import annotations

from dataclasses import dataclass

from tlopt.reading.schema import Count, Share, Text


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output of a network.

    Args:
        name: Its name in the graph.
        dtype: Type of its values, as NumPy calls it.
        shape: Of one image, or of one run if it is not `batched`; 0 for a length that varies from image to image.
        batched: Whether its first axis runs over the images of a batch. That axis is not in `shape`.
    """

    name: Text
    dtype: Text
    shape: tuple[Count, ...]
    batched: bool

    @property
    def varies(self) -> bool:
        """Whether a length varies from image to image."""
        return 0 in self.shape


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """How far an output is from that of another network, on the same images.

    Args:
        name: Its name.
        snr_db: Signal to noise, decibels; None for whole numbers.
        cosine: Cosine of the angle between both, all images together; None for whole numbers.
        largest: Largest difference of two values; None for whole numbers.
        equal: Share of equal values; None for floats.
        rows: Share of the rows that both have; None where the number of rows does not vary.
    """

    name: Text
    snr_db: float | None = None
    cosine: float | None = None
    largest: float | None = None
    equal: Share | None = None
    rows: Share | None = None
