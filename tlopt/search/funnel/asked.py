"""What a search was asked for, and who runs in it: networks at the sizes of their input."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tlopt.artifact import Artifact
from tlopt.cards.card import plain
from tlopt.environment import versions
from tlopt.errors import ArtifactError
from tlopt.images.parts import Shares
from tlopt.search.budget import Budget
from tlopt.search.once import digest_of
from tlopt.search.space import Network, Point, Precision, Space

# Shares of the multiply-adds that pruning may leave. Below a third, networks lose more than a smaller one has.
WIDTHS = (0.7, 0.5, 0.35)


@dataclass(frozen=True, kw_only=True)
class Images:
    """The labelled images of a search.

    Args:
        path: The folder or the manifest.
        digest: Of what it holds.
        classes: Names of the classes.
        train: Number of images to train with.
        val: Number of images that decisions are made on.
        test: Number of images that the answer is judged on, once.
    """

    path: Path
    digest: str
    classes: tuple[str, ...]
    train: int
    val: int
    test: int


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A network at one size of its input."""

    network: Network
    image_size: int

    @property
    def key(self) -> str:
        """Identity: 16 hexadecimal digits."""
        return digest_of(self.network.digest, self.image_size)

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.network.label} {self.image_size} px"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Everything that decides what a search does.

    Args:
        kind: What it starts from: images, or an artifact.
        space: What may be tried.
        budget: What the result may cost.
        images: What it is trained and judged on.
        shares: How they are divided.
        seed: Of all random choices.
        epochs: Most epochs of a training.
        own: Whether the networks are trained on these images, or the artifact was.
        left_out: Network that cannot be had here -> why.
    """

    kind: Literal["images", "torch", "onnx"]
    space: Space
    budget: Budget
    images: Images
    shares: Shares
    seed: int
    epochs: int
    own: bool = True
    left_out: Mapping[str, str] = field(default_factory=dict)

    def identity(self) -> dict[str, str]:
        """Return what must be the same for a study to go on: what differs, and a digest or a word of it."""
        return {
            "tlopt": versions()["tlopt"],
            "space": self.space.digest,
            "budget": digest_of(plain(self.budget)),
            "images": digest_of(self.images.digest, plain(self.shares), self.seed),
            "training": digest_of(self.kind, self.epochs),
        }

    def expect_trainable(self, artifact: Artifact) -> None:
        """Refuse an artifact that cannot be trained further here.

        Raises:
            ArtifactError: It is no torch artifact, or was trained on other images or with another split: test images
                may have been trained on.
        """
        ref = artifact.expect("torch").card.images
        wanted = (self.images.digest, self.shares.val, self.shares.test, self.seed)
        if ref is None or (ref.digest, ref.val, ref.test, ref.seed) != wanted:
            raise ArtifactError(
                f"{artifact.path} was trained on other images, or with another split: its test images may be "
                "training images here.",
                hint="To search from it alone, give it in the place of the images.",
            )

    @functools.cached_property
    def _points(self) -> dict[tuple[str, float], list[Point]]:
        found: dict[tuple[str, float], list[Point]] = {}
        for point in self.space.points():
            one = Contender(network=point.network, image_size=point.image_size)
            found.setdefault((one.key, point.width), []).append(point)
        return found

    @functools.cached_property
    def contenders(self) -> tuple[Contender, ...]:
        """The networks at their sizes, in the order of the space."""
        first = {key: points[0] for (key, width), points in self._points.items() if width == 1}
        return tuple(Contender(network=one.network, image_size=one.image_size) for one in first.values())

    @property
    def numbers(self) -> tuple[Precision, ...]:
        """The precisions that differ in time: training for int8 makes int8 networks."""
        return tuple(dict.fromkeys("int8" if one == "qat" else one for one in self.space.precisions))

    def points(self, one: Contender, width: float = 1.0) -> list[Point]:
        """Return the points of a contender at a width."""
        return [point for point in self._points.get((one.key, width), []) if point.precision in self.numbers]

    @property
    def prunes(self) -> bool:
        """Whether a network that is too slow may be pruned."""
        return min(self.space.widths) < 1 and self.kind != "onnx"

    @property
    def narrowest(self) -> float:
        """The least share of the multiply-adds that pruning leaves."""
        return min(self.space.widths)


def standard_error(accuracy: float, images: int) -> float:
    """Return how far an accuracy may be off by chance."""
    return math.sqrt(accuracy * (1 - accuracy) / images) if images else 1.0


def recovery_epochs(asked: Asked) -> int:
    """Return for how many epochs a network is trained after channels were cut."""
    return max(2, asked.epochs // 2)
