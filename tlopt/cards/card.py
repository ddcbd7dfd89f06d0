"""The card of an artifact: everything that a later stage needs to know about its payload."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, cast

from msgspec import Meta

from tlopt.cards.details import (
    KINDS,
    AnswerKind,
    Details,
    EngineDetails,
    OnnxDetails,
    Output,
    Quantized,
    Task,
    TorchDetails,
)
from tlopt.cards.migration import migrate
from tlopt.errors import ArtifactError
from tlopt.preprocess import Preprocess
from tlopt.reading.schema import Count, SchemaError, Sha256, Share, Text, convert, parse_json

SCHEMA = 2
CARD_NAME = "artifact.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage that an artifact went through.

    `source` is the digest of what the stage read: an artifact's or an image folder's.
    """

    stage: str
    settings: Mapping[str, Any]
    source: str
    seconds: Annotated[float, Meta(ge=0)]
    versions: Mapping[str, str]
    device: str

    @property
    def telling(self) -> dict[str, Any]:
        """The settings that say something: not those left empty."""
        return {name: value for name, value in self.settings.items() if value not in (None, "", [])}


@dataclass(frozen=True, kw_only=True)
class ImagesRef:
    """The images that an artifact was trained on, and how they were split.

    Where `folds` is not 0, that many parts were left out in turn to judge, and in the end the val part was trained on.
    """

    path: Text
    digest: str
    val: Share
    test: Share
    seed: Count
    folds: Count = 0


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything a later stage needs to know about an artifact's payload.

    Args:
        kind: "torch", "onnx" or "tensorrt".
        model: Where the architecture comes from, ``source:name``.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8".
        classes: Class names, in the order of the logits; none if the network is no classifier.
        preprocess: How an image file becomes the network's input.
        images: The training images, or None if the model was imported.
        files: Payload file name -> sha256.
        lineage: The stages gone through, oldest first.
        details: What is said of artifacts of this kind only; without it, what is said of an empty one.
    """

    kind: str
    model: str
    precision: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    images: ImagesRef | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    lineage: tuple[Step, ...] = ()
    details: Details = None  # type: ignore[assignment]  # replaced below

    def __post_init__(self) -> None:
        if cast(object, self.details) is None:
            empty: Details = OnnxDetails() if self.kind == "onnx" else TorchDetails()
            object.__setattr__(self, "details", empty)
        assert isinstance(self.details, KINDS[self.kind]), f"{type(self.details).__name__} of kind {self.kind}"

    @property
    def torch(self) -> TorchDetails:
        """The details of a torch artifact."""
        assert isinstance(self.details, TorchDetails)
        return self.details

    @property
    def onnx(self) -> OnnxDetails:
        """The details of an onnx artifact."""
        assert isinstance(self.details, OnnxDetails)
        return self.details

    @property
    def engine(self) -> EngineDetails:
        """The details of a tensorrt artifact."""
        assert isinstance(self.details, EngineDetails)
        return self.details

    @property
    def quantized(self) -> Quantized | None:
        """How the graph was quantized or cast; None for any other artifact."""
        return self.details.quantized if isinstance(self.details, OnnxDetails) else None

    @property
    def answers(self) -> AnswerKind:
        """What the numbers of the output mean."""
        return self.details.answers

    @property
    def task(self) -> Task:
        """What the network is for; a torch network is a classifier."""
        return "classify" if isinstance(self.details, TorchDetails) else self.details.task

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs of a network that is no classifier; none of a classifier."""
        return () if isinstance(self.details, TorchDetails) else self.details.outputs

    @property
    def made_for(self) -> str:
        """The runtime that the graph was quantized or cast for; empty for any other artifact."""
        return self.quantized.runtime if self.quantized else ""

    def to_json(self) -> str:
        """Return the text of ``artifact.json``."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON types."""
        return {"schema": SCHEMA, **plain(self)}

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Rebuild from `to_json`, also from that of an earlier version.

        Raises:
            ArtifactError: The text is no card, or one of a newer tlopt.
        """
        try:
            return _read(parse_json(text, finite=False))  # 0.1.0 wrote NaN into records
        except SchemaError as error:
            raise ArtifactError(f"The card is damaged: {error}.", hint="Make the artifact again.") from error


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """The content of ``artifact.json``; the type of the details follows from the kind."""

    schema: int
    kind: Literal["torch", "onnx", "tensorrt"]
    model: Text
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"]
    classes: tuple[Text, ...]
    preprocess: Preprocess
    images: ImagesRef | None
    files: Mapping[str, Sha256]
    lineage: tuple[Step, ...]
    details: Mapping[str, Any]


def _read(raw: Any) -> Card:
    """Return a parsed card.

    Raises:
        SchemaError: It does not fit.
        ArtifactError: It is of a newer version.
    """
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if type(schema) is not int or schema < 1:
        raise SchemaError("it has no number in the field schema")
    if schema > SCHEMA:
        raise ArtifactError(
            f"The card has schema {schema}; this version of tlopt reads up to {SCHEMA}.",
            hint="python -m pip install --upgrade tlopt",
        )
    if schema == 1:
        raw = migrate(raw)
    found = convert(raw, _Stored)
    details = convert(found.details, KINDS[found.kind], path="details")
    _check_names(found)
    _check_task(found, details)
    # The numbers stay as they are written: 1 is not 1.0 in what the digest is made of.
    preprocess = Preprocess.from_dict({**found.preprocess.to_dict(), **raw["preprocess"]})
    return Card(
        kind=found.kind,
        model=found.model,
        precision=found.precision,
        classes=found.classes,
        preprocess=preprocess,
        images=found.images,
        files=found.files,
        lineage=found.lineage,
        details=details,
    )


def _check_names(found: _Stored) -> None:
    """Refuse a class that is named twice, and payload files that cannot lie in the artifact's folder."""
    if twice := [name for name, count in Counter(found.classes).items() if count > 1]:
        raise SchemaError(f"the field classes names {twice[0]!a} twice")
    for name in found.files:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise SchemaError(f"the field files names a file outside of its folder, {name!a}")


def _check_task(found: _Stored, details: Details) -> None:
    """Refuse a classifier without classes, and another network without outputs."""
    if not isinstance(details, TorchDetails) and details.task == "any":
        if not details.outputs:
            raise SchemaError("the field details.outputs names no output")
    elif not found.classes:
        raise SchemaError("the field classes names no class")


def plain(value: Any) -> Any:
    """Return dataclasses, tuples and paths as JSON types; a number that is not finite as None."""
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON knows no such number; a later run must be able to read what this one wrote
    return str(value) if isinstance(value, Path) else value
