"""What a deployment is made of, and what is said of it afterwards."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tlopt.artifact import Artifact
from tlopt.cards.card import Card
from tlopt.cards.details import AnswerKind
from tlopt.environment import MOST_THREADS
from tlopt.preprocess import Preprocess
from tlopt.settings import Setting

if TYPE_CHECKING:
    import onnx

Input = Literal["image", "pixels"]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a server batches requests and runs them; not every target has all of these."""

    max_batch: Annotated[
        int | None,
        Setting(
            "Largest number of images in a run. Default: as many as the artifact takes, or 32.", minimum=1, maximum=4096
        ),
    ] = None
    max_delay_ms: Annotated[
        float | None,
        Setting("Milliseconds that a request may wait for others to share its run.", minimum=0, maximum=1e4),
    ] = None
    instances: Annotated[
        int, Setting("Number of runs at once. 0 leaves the number to the target.", minimum=0, maximum=MOST_THREADS)
    ] = 0
    threads: Annotated[
        int,
        Setting(
            "Processor threads of each instance. 0 leaves the number to the server.", minimum=0, maximum=MOST_THREADS
        ),
    ] = 0
    tune_latency_ms: Annotated[
        float | None,
        Setting(
            "Find the settings that serve most images here while 99 % of answers take at most this many ms.",
            minimum=0.1,
            maximum=6e4,
        ),
    ] = None
    server: Annotated[Path | None, Setting("Folder of the environment that has the tritonserver.")] = None

    def given(self) -> dict[str, Any]:
        """Return the settings that were given a value."""
        return {name: value for name, value in vars(self).items() if value not in (None, 0)}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One deployment: what of, and how.

    Args:
        artifacts: One, or several engines of one network for different GPUs.
        target: Name of the target.
        name: Name of the model, as a server gives it.
        backend: What runs it: "onnxruntime", "openvino" or "tensorrt".
        input: What a request holds: an image file, or pixels of the network's size.
        max_batch: Most images of a run.
        max_delay_ms: How long a request may wait for others; None leaves it to the target.
        instances: How many runs may go on at once; 0 leaves it to the target.
        threads: Processor threads of each instance; 0 leaves it to the server.
        tune_latency_ms: Latency to tune the settings above for; None leaves them as they are.
        server: Folder of the environment with the server to check and tune with; None for its usual place.
    """

    artifacts: tuple[Artifact, ...]
    target: str
    name: str
    backend: str
    input: Input
    max_batch: int
    max_delay_ms: float | None = None
    instances: int = 0
    threads: int = 0
    tune_latency_ms: float | None = None
    server: Path | None = None

    @property
    def artifact(self) -> Artifact:
        """The artifact, or the first of several engines."""
        return self.artifacts[0]

    @property
    def card(self) -> Card:
        """Its card."""
        return self.artifact.card

    @property
    def kind(self) -> str:
        """Its kind."""
        return self.card.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.card.classes

    @property
    def answers(self) -> AnswerKind:
        """What the numbers of its output mean."""
        return self.card.answers

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the input of the artifact."""
        return self.card.preprocess

    @property
    def served(self) -> Preprocess:
        """How an image becomes the input of the graph that is deployed: one for pixels does the rest itself."""
        return replace(self.preprocess, folded=True) if self.input == "pixels" else self.preprocess

    @property
    def fixed_batch(self) -> int:
        """Number of images that each run of a graph takes; 0 for any."""
        return self.card.onnx.fixed_batch if self.kind == "onnx" else 0

    @functools.cached_property
    def graph(self) -> onnx.ModelProto:
        """The graph of an ONNX artifact, with its weights; for pixels, one that takes them.

        Raises:
            ArtifactError: The file is no whole graph.
        """
        from tlopt.graphs.loading import load_graph
        from tlopt.graphs.pixels import take_pixels

        model = load_graph(self.artifact.payload(".onnx"))
        return take_pixels(model, self.preprocess) if self.input == "pixels" else model


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a target says of what it wrote.

    Args:
        container: The container image to run it in; empty if there is none.
        how: Shell commands that use it, run in its folder.
        notes: Sentences for the user.
        chosen: The settings of the job that the target chose or changed, by their names.
    """

    container: str = ""
    how: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    chosen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checks:
    """How a deployment was compared with the artifact.

    Args:
        by: What gave the answers.
        images: Number of images.
        difference: Largest difference of the logits, relative to the spread of the artifact's; None if not compared.
        agreement: Share of equal labels; None if not compared.
        proves: What this shows, in sentences.
        leaves_open: What it does not show, in sentences.
        not_done: Why there was no check; empty if there was.
    """

    by: str = ""
    images: int = 0
    difference: float | None = None
    agreement: float | None = None
    proves: tuple[str, ...] = ()
    leaves_open: tuple[str, ...] = ()
    not_done: str = ""
